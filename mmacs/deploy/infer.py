"""Run an exported file on a picture: ``python -m mmacs.deploy.infer model.onnx picture.jpg``.

It needs no config and no framework: what it has to know is in the file.
"""

import argparse
import sys
from pathlib import Path
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

from mmacs.deploy.exported_file import open_exported
from mmacs.deploy.forms import BACKENDS
from mmacs.deploy.metadata import Metadata
from mmacs.deploy.preprocessing import in_one_batch, obstacle, prepared
from mmacs.utils.errors import MmacsError, printable, reason
from mmacs.utils.files import atomic_path

_COLOURS = (
    '#e6194b',
    '#3cb44b',
    '#4363d8',
    '#f58231',
    '#911eb4',
    '#008080',
    '#9a6324',
    '#800000',
    '#808000',
    '#000075',
)


class Detection(NamedTuple):
    """An object: name of its class, score, and box x1, y1, x2, y2 in pixels of the picture."""

    name: str
    label: int
    score: float
    box: Tuple[float, float, float, float]


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Parse the options, print what is found, and draw it if asked to; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog='python -m mmacs.deploy.infer', description='Run an exported file on a picture'
    )
    add_options(parser)
    args = parser.parse_args(arguments)
    try:
        infer(args)
    except MmacsError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument('file', help='the exported file, .onnx, or .xml for OpenVINO')
    parser.add_argument('picture', help='the picture')
    parser.add_argument('--out', help='picture to draw the detections on')
    parser.add_argument('--threshold', type=float, default=0.3, help='lowest score that is shown; default: 0.3')
    parser.add_argument('--backend', choices=BACKENDS, help='default: onnxruntime, or openvino for .xml')


def infer(args: argparse.Namespace) -> None:
    """Print what an exported file finds on a picture, and draw it if asked to.

    Args:
        args (Namespace): Of :func:`add_options`.

    Raises:
        MmacsError: If the file, the picture or an option is not what it must be.
    """
    if not 0 <= args.threshold <= 1:
        raise MmacsError(f'--threshold is a score from 0 to 1, got {args.threshold}')
    out = None if args.out is None else Path(args.out)
    if out is not None and Image.registered_extensions().get(out.suffix.lower()) not in ('PNG', 'JPEG', 'WEBP'):
        raise MmacsError(f'--out {out} must end in .png, .jpg or .webp')
    runtime, metadata = open_exported(args.file, args.backend)
    if out is not None and metadata.task != 'detection':
        raise MmacsError(f'--out draws detections, and {args.file} gives none')
    how = metadata.preprocessing
    why_not = obstacle(metadata.task, how)
    if why_not is not None:
        config = printable(metadata.config, 80) or 'CONFIG'
        raise MmacsError(
            f'{args.file} cannot be used on single pictures, since {why_not}; on the data of its config it works: '
            f'`mmacs test {config} {args.file}`'
        )
    picture = read_picture(args.picture)
    pixels, scale = prepared(picture, how)
    outputs = runtime.run({'images': in_one_batch([pixels], how.pad, runtime.inputs['images'])})
    if 'boxes' not in outputs:
        if 'scores' not in outputs:
            raise MmacsError(f'{args.file} gives raw tensors ({", ".join(outputs)}): there is nothing to show of them')
        scores = outputs['scores'][0]
        for label in np.argsort(-scores)[:5]:
            print(f'{_class(metadata, int(label))} {scores[label]:.3f}')
        return
    found = detections(outputs, metadata, scale, picture.size)
    shown = [one for one in found if one.score >= args.threshold]
    for one in shown:
        print(f'{one.name} {one.score:.3f} at ' + ', '.join(f'{value:.1f}' for value in one.box))
    print(f'{len(shown)} {"object" if len(shown) == 1 else "objects"} with a score of {args.threshold} or more')
    if out is not None:
        draw(picture, shown, out)
        print(f'wrote {out}')


def read_picture(path: str) -> Image.Image:
    """Returns a picture in RGB, turned as its EXIF data says.

    Raises:
        MmacsError: If it cannot be read.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode[0] in 'IF':  # which Pillow would cut off at 255
                raise ValueError('its channels have more than 8 bits')
            return ImageOps.exif_transpose(picture).convert('RGB')
    except UnidentifiedImageError as error:
        raise MmacsError(f'cannot read the picture {path}: it is no image') from error
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        why = getattr(error, 'strerror', None) or reason(error)
        raise MmacsError(f'cannot read the picture {path}: {why}') from error


def detections(outputs: dict, metadata: Metadata, scale: Tuple[float, float], size: Tuple[int, int]) -> List[Detection]:
    """Returns the objects of the first image, in pixels of the picture.

    Args:
        outputs (dict): ``boxes``, ``scores`` and ``labels``.
        metadata (Metadata): What the file says of itself.
        scale (Tuple[float, float]): What widths and heights of the picture were multiplied by.
        size (Tuple[int, int]): Width and height of the picture.
    """
    found = []
    for box, score, label in zip(outputs['boxes'][0], outputs['scores'][0], outputs['labels'][0]):
        if score > 0:
            corners = np.clip(box / np.array([*scale] * 2), 0, np.array([*size] * 2)).tolist()
            found.append(Detection(_class(metadata, int(label)), int(label), float(score), tuple(corners)))
    return found


def draw(picture: Image.Image, found: Sequence[Detection], path: Path) -> None:
    """Write a picture with boxes and names.

    Raises:
        MmacsError: If it cannot be written.
    """
    picture = picture.copy()
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=max(11, picture.height // 40))
    rising = sorted(found, key=lambda each: each.score)
    for one in rising:
        pen.rectangle(one.box, outline=_colour(one), width=max(2, picture.height // 240))
    for one in rising:  # names lie on all boxes, those of the highest scores on top
        text = f'{one.name} {one.score:.2f}'
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        x = max(0.0, min(one.box[0], picture.width - (right - left) - 6))  # the text stays within the picture
        y = max(0.0, one.box[1] - (bottom - top) - 4)
        pen.rectangle((x, y, x + right - left + 6, y + bottom - top + 4), fill=_colour(one))
        pen.text((x + 3 - left, y + 2 - top), text, fill='white', font=font)
    with atomic_path(path) as temporary:
        picture.save(temporary)


def _colour(one: Detection) -> str:
    return _COLOURS[one.label % len(_COLOURS)]


def _class(metadata: Metadata, label: int) -> str:
    classes = metadata.classes or ()
    return printable(classes[label], 60) if 0 <= label < len(classes) else f'class {label}'


if __name__ == '__main__':
    sys.exit(main())
