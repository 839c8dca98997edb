"""What a config's data pipeline does to a picture before it is an input, and the same without the config."""

import math
from dataclasses import replace
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import cv2
import numpy as np
from PIL import Image

from mmacs.deploy.metadata import INTERPOLATIONS, Preprocessing, require_sound
from mmacs.utils.errors import MmacsError, printable
from mmacs.utils.type_names import type_name, type_path

_LIBRARIES = ('', 'mmcv', 'mmdet', 'mmpretrain')  # whose transforms are known here
_PASSIVE = ('FilterAnnotations', 'InferencerLoader', 'LoadAnnotations', 'PackDetInputs', 'PackInputs')
_ORDER = {'Resize': 1, 'ResizeEdge': 1, 'EfficientNetCenterCrop': 1, 'CenterCrop': 2, 'Pad': 3}
_NO_PIPELINE = 'a pipeline that is not known'


def data_of(config: Mapping[str, Any]) -> Tuple[Optional[Sequence[Mapping[str, Any]]], Mapping[str, Any]]:
    """Returns the pipeline of a config's test data, None if there is none or several, and its ``metainfo``."""
    loader = config.get('test_dataloader') or config.get('val_dataloader') or {}
    parts = _parts_of(loader.get('dataset') or {})
    pipelines = [part.get('pipeline') for part in parts]
    same = pipelines.count(pipelines[0]) == len(pipelines)
    return (pipelines[0] if same else None), parts[0].get('metainfo') or {}


def _parts_of(dataset: Mapping[str, Any]) -> List[Mapping[str, Any]]:
    """Returns the data sets within one that only puts others together."""
    parts = dataset.get('datasets') or [dataset.get('dataset')]
    if 'pipeline' in dataset or not all(isinstance(part, Mapping) for part in parts):
        return [dataset]
    return [each for part in parts for each in _parts_of(part)]


def preprocessing_of(
    pipeline: Optional[Sequence[Mapping[str, Any]]], data_preprocessor: Mapping[str, Any]
) -> Preprocessing:
    """Returns what is done to a picture, from a config.

    Pictures are read as MMCV reads them, in BGR. What MMEngine's preprocessors pad with, after normalisation, is given
    in raw pixels. One resizing, one crop and one padding in this order are told in full; other transforms are named as
    ``unknown``.

    Args:
        pipeline (Sequence[Mapping], optional): Transforms for testing; those that leave pixels as they are, are passed
            over. None if they are not known.
        data_preprocessor (Mapping): Settings of the model's.
    """
    reverse = bool(data_preprocessor.get('bgr_to_rgb') or data_preprocessor.get('to_rgb'))
    mean, std = (_per_channel(data_preprocessor.get(name) or [one]) for name, one in (('mean', 0.0), ('std', 1.0)))
    normal = data_preprocessor.get('pad_value') or 0.0
    value = [normal * one + other for one, other in zip(std, mean)]
    if reverse:
        mean, std, value = mean[::-1], std[::-1], value[::-1]
    pad: Dict[str, Any] = {'divisor': int(data_preprocessor.get('pad_size_divisor') or 1), 'value': value}
    found = Preprocessing(mean=mean, std=std, pad=pad)
    if pipeline is None:
        return replace(found, unknown=[_NO_PIPELINE])
    last = 0
    for transform in pipeline:
        kind = _kind(transform)
        if _leaves_pixels(kind, transform):
            continue
        told = _told(kind, transform, found) if _ORDER.get(kind, 0) > last else None
        if told is None:
            found.unknown.append(kind)
        else:
            last, found = _ORDER[kind], told
    return found


def _per_channel(values: Sequence[float]) -> List[float]:
    return [float(one) for one in values] * (3 if len(values) == 1 else 1)


def _kind(transform: Mapping[str, Any]) -> str:
    """Name of a transform, without the library if it is one of those that are known."""
    kind = type_path(transform.get('type'))
    library, dot, _ = kind.partition('.')
    return f'{library}.{type_name(kind)}' if dot and library not in _LIBRARIES else type_name(kind)


def _leaves_pixels(kind: str, transform: Mapping[str, Any]) -> bool:
    if kind == 'LoadImageFromFile':
        return transform.get('color_type', 'color') == 'color'
    return kind in _PASSIVE or (kind == 'RandomFlip' and transform.get('prob') == 0)


def _told(kind: str, transform: Mapping[str, Any], before: Preprocessing) -> Optional[Preprocessing]:
    """What is done with one more transform; None if :func:`prepared` and :func:`in_one_batch` can't do it."""
    try:
        if kind == 'CenterCrop':
            size = transform['crop_size']
            found = replace(before, crop=[size] * 2 if isinstance(size, int) else list(size)[::-1])
            known = not transform.get('auto_pad')
        elif kind == 'Pad':
            found = replace(before, pad=_padding_of(transform, before.pad['divisor']))
            known = transform.get('padding_mode', 'constant') == 'constant' and _pads_alone(transform, found, before)
        else:
            found, known = replace(before, resize=_resizing_of(kind, transform)), True
        require_sound(found)
    except (KeyError, TypeError, ValueError):  # a size by a factor, of a callable, out of all proportion
        return None
    return found if known else None


def _resizing_of(kind: str, transform: Mapping[str, Any]) -> Dict[str, Any]:
    if kind == 'Resize':
        scale = transform['scale']
        scale = [scale] * 2 if isinstance(scale, int) else list(scale)
        found: Dict[str, Any] = {'scale': scale, 'keep_ratio': bool(transform.get('keep_ratio'))}
    elif kind == 'ResizeEdge':
        found = {'scale': transform['scale'], 'edge': transform.get('edge', 'short')}
    else:
        size = transform['crop_size']
        found = {'scale': [size] * 2, 'keep_ratio': False, 'centre': size / (size + transform.get('crop_padding', 32))}
    found['interpolation'] = transform.get('interpolation', 'bicubic' if 'centre' in found else 'bilinear')
    found['backend'] = transform.get('backend', 'cv2')
    return found


def _padding_of(transform: Mapping[str, Any], divisor: int) -> Dict[str, Any]:
    value = transform.get('pad_val', 0)
    value = value.get('img', 0) if isinstance(value, Mapping) else value
    found: Dict[str, Any] = {'divisor': math.lcm(divisor, int(transform.get('size_divisor') or 1))}
    found['value'] = _per_channel([value] if np.isscalar(value) else value)
    if transform.get('pad_to_square'):
        found['square'] = True
    if transform.get('size') is not None:
        width, height = transform['size']
        found['size'] = [height, width]
    return found


def _pads_alone(transform: Mapping[str, Any], found: Preprocessing, before: Preprocessing) -> bool:
    """Whether nothing is left to pad for the model's preprocessor, if that pads with another value."""
    divisor, resize = before.pad['divisor'], found.resize or {}
    if found.pad['value'] == before.pad['value']:
        return True
    sizes = [transform.get('size_divisor') or 1]
    if 'size' in found.pad:
        sizes = found.pad['size']
    elif 'square' in found.pad and resize.get('keep_ratio') and len({*resize['scale']}) == 1:
        sizes = resize['scale']
    return all(size % divisor == 0 for size in sizes)


def obstacle(task: str, how: Preprocessing) -> Optional[str]:
    """Returns why no picture can be prepared by what a file says of its input, in words; None if pictures can.

    Args:
        task (str): What the file gives, see :class:`~.metadata.Metadata`.
        how (Preprocessing): What it says of its input.
    """
    if _NO_PIPELINE in how.unknown:
        return 'no test pipeline of a config, or several that differ, say how pictures are prepared'
    if how.unknown:
        names = ' and '.join(printable(one, 80) for one in how.unknown)
        return (
            f'the test pipeline prepares pictures by {names}, which a file cannot tell: it can tell one resizing, one '
            f'crop in the centre and one padding, in this order'
        )
    if task == 'detection' and (how.crop is not None or 'centre' in (how.resize or {})):
        return "the test pipeline crops pictures, and boxes can't be put back into the whole picture"
    return None


def prepared(picture: Image.Image, how: Preprocessing) -> Tuple[np.ndarray, Tuple[float, float]]:
    """Returns a picture's raw pixels as the pipeline would give them, without the padding of batches.

    Args:
        picture (Image): In RGB.
        how (Preprocessing): What a file says of its input.

    Returns:
        Tuple[np.ndarray, Tuple[float, float]]: uint8 pixels (3, H, W) in the input's channel order, and what widths and
        heights were multiplied by.

    Raises:
        MmacsError: If nothing would be left of it.
    """
    resize = how.resize or {}
    cut = _square_of(picture, resize['centre']) if 'centre' in resize else picture
    size = resized_size(cut.size, how.resize) if min(cut.size) else (0, 0)
    if min(size) < 1:
        raise MmacsError(f'a picture of {picture.width} x {picture.height} pixels is too thin: nothing is left of it')
    scale = size[0] / cut.width, size[1] / cut.height
    pixels = np.asarray(cut) if size == cut.size else _resized(cut, size, resize)
    if how.crop is not None:
        pixels = _centre(pixels, how.crop)
    if how.channel_order == 'BGR':
        pixels = pixels[..., ::-1]
    return pixels.transpose(2, 0, 1), scale


def _resized(picture: Image.Image, size: Tuple[int, int], resize: Mapping[str, Any]) -> np.ndarray:
    """Pixels (H, W, 3), as the same library makes them in the pipeline: Pillow smooths what it shrinks, OpenCV not."""
    backend, way = resize.get('backend', 'cv2'), resize.get('interpolation', 'bilinear')
    if backend == 'pillow':
        return np.asarray(picture.resize(size, Image.Resampling[INTERPOLATIONS[backend][way]]))
    return cv2.resize(np.asarray(picture), size, interpolation=getattr(cv2, INTERPOLATIONS[backend][way]))


def resized_size(size: Tuple[int, int], resize: Optional[Mapping[str, Any]]) -> Tuple[int, int]:
    """Returns width and height after resizing, rounded as MMCV and MMPreTrain do."""
    if resize is None:
        return size
    width, height = size
    scale = resize['scale']
    if 'edge' in resize:
        by_width = {'short': width < height, 'long': width > height, 'width': True, 'height': False}[resize['edge']]
        return (scale, int(scale * height / width)) if by_width else (int(scale * width / height), scale)
    if not resize.get('keep_ratio'):
        return scale[0], scale[1]
    factor = min(max(scale) / max(size), min(scale) / min(size))
    return int(width * factor + 0.5), int(height * factor + 0.5)


def _square_of(picture: Image.Image, share: float) -> Image.Image:
    """The centre of a picture, a square of a share of its shorter edge."""
    edge = share * min(picture.size)
    left, top = (max(0, round((size - edge) / 2)) for size in picture.size)
    return picture.crop((left, top, left + int(edge), top + int(edge)))


def _centre(pixels: np.ndarray, crop: List[int]) -> np.ndarray:
    height, width = pixels.shape[:2]
    top, left = (max(0, round((size - wanted) / 2)) for size, wanted in zip((height, width), crop))
    return pixels[top : top + crop[0], left : left + crop[1]]


def in_one_batch(images: Sequence[np.ndarray], pad: Mapping[str, Any], shape: Sequence[Optional[int]]) -> np.ndarray:
    """Returns images as one float32 batch (B, 3, H, W), padded at the right and lower edges.

    Args:
        images (Sequence[np.ndarray]): Raw pixels 0 to 255, (3, H, W) each, of any sizes.
        pad (Mapping): What a file says of padding, see :class:`~.metadata.Preprocessing`.
        shape (Sequence): The input's shape; None where any size will do.

    Raises:
        MmacsError: If an image has no pixels or other channels, or is larger than the file takes.
    """
    for image in images:
        if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
            size = ' x '.join(map(str, image.shape))
            raise MmacsError(f'the file takes images with 3 channels and at least one pixel, got {size}')
    height, width = _padded_size([image.shape[1:] for image in images], pad, shape[2:])
    batch = np.empty((len(images), 3, height, width), np.float32)
    batch[:] = np.asarray(pad.get('value', (0, 0, 0)), np.float32).reshape(3, 1, 1)
    for place, image in zip(batch, images):
        if image.shape[1] > height or image.shape[2] > width:
            raise MmacsError(
                f'the file takes images of {height} x {width} pixels at most, and got one of {image.shape[1]} x '
                f'{image.shape[2]}: export it with another --shape, or without --fixed-shape'
            )
        place[:, : image.shape[1], : image.shape[2]] = image
    return batch


def _padded_size(
    sizes: Sequence[Tuple[int, int]], pad: Mapping[str, Any], fixed: Sequence[Optional[int]]
) -> Tuple[int, int]:
    largest = [max(size[axis] for size in sizes) for axis in (0, 1)]
    if pad.get('square'):
        largest = [max(largest)] * 2
    least = pad.get('size', (0, 0))
    divisor = pad.get('divisor', 1)
    found = [math.ceil(max(one, other) / divisor) * divisor for one, other in zip(largest, least)]
    height, width = (one or other for one, other in zip(fixed, found))
    return height, width
