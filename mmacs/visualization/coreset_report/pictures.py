"""The pictures of a coreset's report: the images of highest and lowest importance and suspicion."""

import base64
import io
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import rankdata

from mmacs.coreset.selection.trimming import noise_counts
from mmacs.visualization.charts import PALETTE
from mmacs.visualization.coreset_report.contents import Contents
from mmacs.visualization.coreset_report.rounds import Record, columns
from mmacs.visualization.pictures import draw_box, read_image

_PICTURES = 12  # per gallery
_SIDE = 420  # pixels, the longer side of a picture


def _picture(info: Dict[str, Any], names: Sequence[str]) -> bytes:
    """An image as PNG with the boxes of its annotations, each in its class's colour and named; ignored ones dashed.

    Raises:
        MmacsError: If the image cannot be read.
    """
    pixels = read_image(info)
    height, width = pixels.shape[:2]
    scale = _SIDE / max(height, width)
    figure = Figure(figsize=(width * scale / 100, height * scale / 100), dpi=100)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.imshow(pixels, aspect='auto', cmap='gray')
    axis.set_axis_off()
    for one in info.get('instances', ()):
        colour = PALETTE[one['bbox_label'] % len(PALETTE)]
        draw_box(axis, one['bbox'], colour, 'dashed' if one.get('ignore_flag') else 'solid')
        label = {'facecolor': colour, 'edgecolor': 'none', 'pad': 0.8, 'alpha': 0.85}
        at = [max(start, 0) + 2 / scale for start in one['bbox'][:2]]
        text = {'fontsize': 7, 'color': 'white', 'va': 'top', 'clip_on': True, 'parse_math': False}
        axis.text(*at, names[one['bbox_label']], bbox=label, **text)
    buffer, small = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer)
    # 256 colours are a third of the bytes, and tell the same.
    Image.open(buffer).convert('RGB').quantize(256).save(small, 'png', optimize=True)
    return small.getvalue()


def _caption(record: Record, contents: Contents, position: int, percentiles: Dict[str, np.ndarray]) -> Dict[str, Any]:
    """What is said below a picture: image id, content, marks, and scores with the share of images that score less."""
    labels, counts = np.unique(contents.label[contents.image == position], return_counts=True)
    content = [f'{count} {contents.names[label]}' if contents.detection else contents.names[label]
               for label, count in zip(labels.tolist(), counts.tolist())]  # fmt: skip
    marks = ['chosen' if record['chosen'][position] else 'not chosen']
    if 'trimmed' in record and record['trimmed'][position]:
        marks.append('trimmed')
    if 'noisy' in record and record['noisy'][position]:
        marks.append('label noise injected')
    return {
        'id': str(record['image_ids'][position]),
        'content': ', '.join(content) or 'no objects',
        'marks': marks,
        'scores': [
            (name, f'{values[position]:.3g}', f'{percentiles[name][position]:.0%}')
            for name, values in _captioned(record).items()
        ],
    }


def _captioned(record: Record) -> Dict[str, np.ndarray]:
    """Returns the columns that captions show."""
    return {**columns(record), **({'suspicion': record['suspicion']} if 'suspicion' in record else {})}


def _galleries(record: Record) -> Iterator[Tuple[str, str, str, np.ndarray]]:
    """Stem of the files, heading, explanation and positions of the pictures of the last round."""
    importance = record['importance']
    order = np.argsort(-importance, kind='stable')
    order = order[np.isfinite(importance[order])]
    among = 'Of the last round'
    if 'trimmed' in record:  # they can't be chosen, and have a gallery of their own
        order, among = order[~record['trimmed'][order]], f'{among}, without the trimmed images'
    yield 'most', 'Most important', f'{among}, the most important first.', order[:_PICTURES]
    yield 'least', 'Least important', f'{among}, the least important first.', order[::-1][:_PICTURES]
    if 'suspicion' not in record:
        return
    trimmed = record['trimmed']
    text = 'The images of highest suspicion in the last round.'
    text += f' {np.count_nonzero(trimmed)} images are trimmed: they are not trained on.'
    if 'noisy' in record:
        found = noise_counts(record['chosen'], record['noisy'], trimmed, record.get('candidates'))
        text += f' {np.count_nonzero(record["noisy"])} images have label noise injected; '
        text += f'{found["trim_precision"]:.0%} of the trimmed images are among them, and '
        of_them = 'of them' if 'candidates' not in record else 'of those that could be chosen'
        text += f'{found["trim_recall"]:.0%} {of_them} are trimmed.'
    order = np.argsort(-record['suspicion'], kind='stable')
    yield 'suspect', 'Suspected label errors', text, order[:_PICTURES]


def draw_galleries(
    record: Record, info: Callable[[int], Dict[str, Any]], contents: Contents, folder: Path
) -> List[Dict[str, Any]]:
    """Draw the galleries of a round, and write their pictures.

    Args:
        record (Dict[str, np.ndarray]): The round, with the images' ids.
        info (Callable[[int], dict]): Returns what the data set knows of an image, as MMEngine's ``get_data_info``.
        contents (Contents): Their annotations.
        folder (Path): Where the pictures are written.

    Returns:
        List[dict]: Of each gallery what the page needs: ``title``, ``text``, and ``pictures`` with their captions.

    Raises:
        MmacsError: If an image cannot be read.
    """
    percentiles = {
        name: (rankdata(values, 'min', nan_policy='omit') - 1) / max(1, np.count_nonzero(np.isfinite(values)))
        for name, values in _captioned(record).items()
    }
    galleries = []
    for stem, title, text, positions in _galleries(record):
        pictures = []
        for number, position in enumerate(positions.tolist(), start=1):
            png = _picture(info(position), contents.names)
            (folder / f'{stem}_{number:02d}.png').write_bytes(png)
            caption = _caption(record, contents, position, percentiles)
            pictures.append({'png': Markup(base64.b64encode(png).decode()), **caption})
        galleries.append({'title': title, 'text': text, 'pictures': pictures})
    return galleries
