"""Pictures of a run: what both of its models detect, and which images its coreset took or left out, and why."""

import os
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple

import cv2
import mmcv
import numpy as np
import torch
from mmengine.dataset import BaseDataset, pseudo_collate
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from mmacs.datasets.distinct_images import DistinctImages
from mmacs.utils.errors import MmacsError, printable
from mmacs.utils.files import atomic_path
from mmacs.visualization.coreset_report.rounds import columns, read_round, shares_below

_TRUTH, _MODELS = '#178a49', ('#2f78b7', '#cc5f1a')
_SIDE, _GAP, _LINE = 330, 10, 15  # pixels: the longer side of an image, between images, a line of text
_INK, _SOFT, _GROUND = '#22262b', '#5f6873', 'white'
_FONTS = {size: ImageFont.load_default(size) for size in (11, 12, 15)}
_COLOURS = 200  # of a picture; a third of the bytes of all


class Box(NamedTuple):
    """A box to draw: x1, y1, x2, y2 in pixels of the image, what is written on it, and whether it is dashed."""

    ends: Sequence[float]
    text: str
    dashed: bool = False


class Panel(NamedTuple):
    """An image with boxes of one colour, and lines of text below it."""

    pixels: np.ndarray
    boxes: Sequence[Box]
    colour: str
    lines: Sequence[str] = ()


def draw_extremes(round_file: os.PathLike, images: DistinctImages, path: os.PathLike, count: int = 3) -> None:
    """Draw rows of images with their annotations: the most important chosen ones, the least important ones left out.

    Below each stand its scores with the share of images that score less, which is the reason. Where the round trimmed
    images as mislabelled there is a row of them.

    Args:
        round_file (os.PathLike): A ``round_<n>.npz`` that :class:`mmacs.CoresetHook` wrote.
        images (DistinctImages): The images of that run.
        path (os.PathLike): The PNG to write.
        count (int): Images per row. Defaults to 3.
    """
    record = read_round(Path(round_file), len(images.positions), len(images))
    scores = columns(record)
    shares = {name: shares_below(values) for name, values in scores.items()}
    order = np.argsort(-record['importance'], kind='stable')
    order = order[np.isfinite(record['importance'][order])]  # others were not to choose among
    trimmed = record.get('trimmed', np.zeros(len(images), dtype=bool))
    rows = {
        'Chosen, of highest importance': order[record['chosen'][order]][:count],
        'Left out, of lowest importance': order[~record['chosen'][order] & ~trimmed[order]][::-1][:count],
    }
    if trimmed.any():
        suspected = np.argsort(-record['suspicion'], kind='stable')
        rows['Left out, since the labels look wrong to the full-precision model'] = suspected[trimmed[suspected]][
            :count
        ]

    def panel(position: int) -> Panel:
        info = images.info(position)
        reasons = [
            f'{name} {values[position]:.3g} (above {shares[name][position]:.0%})' for name, values in scores.items()
        ]
        name = Path(info.get('img_path') or f'image {images.image_id(position)}').name
        classes = (images.bases[0].metainfo or {}).get('classes', ())
        return Panel(read_image(info), _truth(info, classes), _TRUTH, [name, *reasons])

    title = f'Coreset selection before epoch {int(record["epoch"]) + 1}: {np.count_nonzero(record["chosen"])} of '
    title += f'{len(images)} images. In brackets: the share of images that score less.'
    _save(
        {head: [panel(position) for position in some.tolist()] for head, some in rows.items() if len(some)}, title, path
    )


def draw_detections(
    models: Mapping[str, nn.Module],
    dataset: BaseDataset,
    path: os.PathLike,
    count: int = 3,
    score_threshold: float = 0.4,
) -> None:
    """Draw annotations and the detections of one or several models beside each other, a row per image.

    Args:
        models (Mapping[str, nn.Module]): Detectors of MMDetection by what they are called.
        dataset (BaseDataset): A validation or test data set of MMDetection's, over which the images are spread evenly.
        path (os.PathLike): The PNG to write.
        count (int): Number of images. Defaults to 3.
        score_threshold (float): Lowest score that is drawn. Defaults to 0.4.
    """
    names = dataset.metainfo['classes']
    chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int).tolist()
    rows: Dict[str, List[Panel]] = {}
    for index in chosen:
        info = dataset.get_data_info(index)
        pixels, truth = read_image(info), _truth(info, names)
        panels = [Panel(pixels, truth, _TRUTH, [f'annotations: {len(truth)} objects'])]
        for number, (name, model) in enumerate(models.items()):
            found = _detect(model, dataset[index], names, score_threshold)
            panels.append(Panel(pixels, found, _MODELS[number % len(_MODELS)], [f'{name}: {len(found)} detections']))
        rows[Path(info.get('img_path') or str(index)).name] = panels
    _save(rows, f'Detections with a score of {score_threshold} and more', path)


@torch.no_grad()
def _detect(model: nn.Module, data: Dict[str, Any], names: Sequence[str], score_threshold: float) -> List[Box]:
    """Returns detections, the surest first."""
    model.eval()
    (result,) = model.test_step(pseudo_collate([data]))
    found = result.pred_instances[result.pred_instances.scores >= score_threshold].cpu()
    found = found[found.scores.argsort(descending=True)]
    rows = zip(found.bboxes.tolist(), found.labels.tolist(), found.scores.tolist())
    return [Box(ends, f'{printable(names[label], 40)} {score:.2f}') for ends, label, score in rows]


def _truth(info: Dict[str, Any], names: Sequence[str]) -> List[Box]:
    """Returns the boxes of annotations, those to be ignored dashed."""
    return [
        Box(
            one['bbox'],
            printable(names[one['bbox_label']] if names else one['bbox_label'], 40),
            bool(one['ignore_flag']),
        )
        for one in info.get('instances', ())
    ]


def _save(rows: Mapping[str, Sequence[Panel]], title: str, path: os.PathLike) -> None:
    """Write panels, a row with a heading each."""
    drawn = {head: [_draw(panel) for panel in panels] for head, panels in rows.items()}
    widths = [sum(one.width + _GAP for one in some) for some in drawn.values()]
    heights = [max(one.height for one in some) for some in drawn.values()]
    width = max([*widths, round(_FONTS[15].getlength(title)) + _GAP]) + _GAP
    sheet = Image.new('RGB', (width, 2 * _GAP + 20 + sum(height + 22 + _GAP for height in heights)), _GROUND)
    canvas = ImageDraw.Draw(sheet)
    canvas.text((_GAP, _GAP), title, _INK, _FONTS[15])
    top = 2 * _GAP + 20
    for (head, some), height in zip(drawn.items(), heights):
        canvas.text((_GAP, top), printable(head, 150), _INK, _FONTS[15])
        left = _GAP
        for one in some:
            sheet.paste(one, (left, top + 22))
            left += one.width + _GAP
        top += height + 22 + _GAP
    with atomic_path(path) as temporary:
        sheet.quantize(_COLOURS).save(temporary, 'png', optimize=True)


def _draw(panel: Panel) -> Image.Image:
    """Returns an image of the size that all have, with its boxes and their texts, none of which hides another."""
    source = Image.fromarray(np.ascontiguousarray(panel.pixels)).convert('RGB')
    scale = _SIDE / max(source.size)
    width, height = (max(1, round(side * scale)) for side in source.size)
    sheet = Image.new('RGB', (max(width, 200), height + _LINE * len(panel.lines) + 4), _GROUND)
    sheet.paste(source.resize((width, height), Image.Resampling.LANCZOS))
    canvas = ImageDraw.Draw(sheet)
    scaled = [box._replace(ends=[end * scale for end in box.ends]) for box in panel.boxes]
    for box in scaled:
        _outline(canvas, box, panel.colour)
    taken: List[Tuple[float, float, float, float]] = []
    for box in scaled:
        size = _FONTS[11].getlength(box.text) + 4, 13
        spot = _free_spot(box.ends, size, (width, height), taken)
        if spot is not None:
            taken.append(spot)
            canvas.rectangle(spot, fill=panel.colour)
            canvas.text((spot[0] + 2, spot[1]), box.text, 'white', _FONTS[11])
    for number, line in enumerate(panel.lines):
        canvas.text((0, height + 3 + number * _LINE), printable(line, 100), _SOFT, _FONTS[12])
    return sheet


def _outline(canvas: ImageDraw.ImageDraw, box: Box, colour: str) -> None:
    x1, y1, x2, y2 = box.ends
    if not box.dashed:
        canvas.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colour, width=2)
        return
    for start in np.arange(0, 1, 0.1):  # dashes, ten to a side
        for a, b in (((x1, y1), (x2, y1)), ((x2, y1), (x2, y2)), ((x2, y2), (x1, y2)), ((x1, y2), (x1, y1))):
            ends = [(a[0] + (b[0] - a[0]) * at, a[1] + (b[1] - a[1]) * at) for at in (start, start + 0.06)]
            canvas.line(ends, fill=colour, width=2)


def _free_spot(
    ends: Sequence[float],
    size: Tuple[float, float],
    within: Tuple[int, int],
    taken: Sequence[Tuple[float, float, float, float]],
) -> 'Tuple[float, float, float, float] | None':
    """Returns where a box's text hides no other: at one of the corners of the box, or None."""
    (x1, y1, x2, y2), (width, height) = ends, size
    corners = [(x, y) for y in (y1 - height, y1, y2, y2 - height) for x in (x1, x2 - width, x2, x1 - width)]
    for x, y in corners:
        left, top = min(max(0, x), within[0] - width), min(max(0, y), within[1] - height)
        spot = left, top, left + width, top + height
        if all(spot[2] <= a or c <= spot[0] or spot[3] <= b or d <= spot[1] for a, b, c, d in taken):
            return spot
    return None


def read_image(info: Dict[str, Any]) -> np.ndarray:
    """Returns the pixels of an image, uint8, shape (H, W, 3) in RGB or (H, W) in grey.

    Args:
        info (dict): What MMEngine's ``get_data_info`` gives: ``img``, or ``img_path`` of a file.

    Raises:
        MmacsError: If the file cannot be read.
    """
    if 'img' in info:
        return info['img']
    try:
        pixels = mmcv.imread(info['img_path'], channel_order='rgb')
    except (OSError, cv2.error) as error:
        raise MmacsError(f'cannot read image {info["img_path"]}: {error}') from error
    if pixels is None:  # where OpenCV can't decode what is in the file
        raise MmacsError(f'cannot read image {info["img_path"]}')
    return pixels
