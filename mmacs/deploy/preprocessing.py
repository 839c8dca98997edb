"""What a config's data pipeline does to a picture before it is an input, and the same without the config."""

import math
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from PIL import Image

from mmacs.deploy.metadata import INTERPOLATIONS, Preprocessing
from mmacs.utils.errors import MmacsError

_RESAMPLING = dict(zip(INTERPOLATIONS, ('NEAREST', 'BILINEAR', 'BICUBIC', 'BOX', 'LANCZOS')))  # Pillow's names
_PASSIVE = ('Load', 'Pack', 'FilterAnnotations')  # how names of transforms begin that leave pixels as they are
_ORDER = {'Resize': 1, 'ResizeEdge': 1, 'EfficientNetCenterCrop': 1, 'CenterCrop': 2, 'Pad': 3}


def preprocessing_of(pipeline: Sequence[Mapping[str, Any]], data_preprocessor: Mapping[str, Any]) -> Preprocessing:
    """Returns what is done to a picture, from a config.

    Pictures are read as MMCV reads them, in BGR. What MMEngine's preprocessors pad with, after normalisation, is given
    in raw pixels. One resizing, one crop and one padding in this order are told in full; other transforms are named as
    ``unknown``.

    Args:
        pipeline (Sequence[Mapping]): Transforms for testing; those that leave pixels as they are, are passed over.
        data_preprocessor (Mapping): Settings of the model's.
    """
    reverse = bool(data_preprocessor.get('bgr_to_rgb') or data_preprocessor.get('to_rgb'))
    mean = [float(one) for one in data_preprocessor.get('mean') or (0.0, 0.0, 0.0)]
    std = [float(one) for one in data_preprocessor.get('std') or (1.0, 1.0, 1.0)]
    normal = data_preprocessor.get('pad_value') or 0.0
    value = [normal * one + other for one, other in zip(std, mean)]
    if reverse:
        mean, std, value = mean[::-1], std[::-1], value[::-1]
    pad: Dict[str, Any] = {'divisor': int(data_preprocessor.get('pad_size_divisor') or 1), 'value': value}
    found = Preprocessing(mean=mean, std=std, pad=pad)
    last = 0
    for transform in pipeline:
        kind = transform.get('type')
        kind = getattr(kind, '__name__', None) or str(kind).rpartition('.')[2]
        if kind.startswith(_PASSIVE) or _changes_nothing(kind, transform):
            continue
        if _ORDER.get(kind, 0) <= last or not _is_reproduced(kind, transform):
            found.unknown.append(kind)
            continue
        last = _ORDER[kind]
        if kind == 'CenterCrop':
            size = transform['crop_size']
            found.crop = [size] * 2 if isinstance(size, int) else list(size)[::-1]
        elif kind == 'Pad':
            pad.update(_padding_of(transform))
        else:
            found.resize = _resizing_of(kind, transform)
    return found


def _changes_nothing(kind: str, transform: Mapping[str, Any]) -> bool:
    return kind == 'RandomFlip' and transform.get('prob') in (0, None)


def _is_reproduced(kind: str, transform: Mapping[str, Any]) -> bool:
    """Whether :func:`prepared` and :func:`in_one_batch` can do what a transform does."""
    if kind == 'Resize' and transform.get('scale') is None:
        return False  # by a factor
    if kind == 'Pad' and transform.get('padding_mode', 'constant') != 'constant':
        return False
    return not transform.get('auto_pad')


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
    way = transform.get('interpolation', 'bicubic' if kind == 'EfficientNetCenterCrop' else 'bilinear')
    return found if way == 'bilinear' else {**found, 'interpolation': way}


def _padding_of(transform: Mapping[str, Any]) -> Dict[str, Any]:
    value = transform.get('pad_val', 0)
    value = value.get('img', 0) if isinstance(value, Mapping) else value
    found: Dict[str, Any] = {'value': [float(value)] * 3 if np.isscalar(value) else [float(one) for one in value]}
    if transform.get('pad_to_square'):
        found['square'] = True
    if transform.get('size') is not None:
        width, height = transform['size']
        found['size'] = [height, width]
    if transform.get('size_divisor'):
        found['divisor'] = int(transform['size_divisor'])
    return found


def prepared(picture: Image.Image, how: Preprocessing) -> Tuple[np.ndarray, Tuple[float, float]]:
    """Returns a picture's raw pixels as the pipeline would give them, without the padding of batches.

    Args:
        picture (Image): In RGB.
        how (Preprocessing): What a file says of its input.

    Returns:
        Tuple[np.ndarray, Tuple[float, float]]: uint8 pixels (3, H, W) in the input's channel order, and what widths and
        heights were multiplied by.
    """
    resize = how.resize or {}
    if 'centre' in resize:
        picture = _square_of(picture, resize['centre'])
    size = resized_size(picture.size, how.resize)
    scale = size[0] / picture.width, size[1] / picture.height
    way = Image.Resampling[_RESAMPLING[resize.get('interpolation', 'bilinear')]]
    pixels = np.asarray(picture.resize(size, way) if size != picture.size else picture)
    if how.crop is not None:
        pixels = _centre(pixels, how.crop)
    if how.channel_order == 'BGR':
        pixels = pixels[..., ::-1]
    return pixels.transpose(2, 0, 1), scale


def resized_size(size: Tuple[int, int], resize: Optional[Mapping[str, Any]]) -> Tuple[int, int]:
    """Returns width and height after resizing, rounded as MMCV and MMPreTrain do."""
    if resize is None:
        return size
    width, height = size
    scale = resize['scale']
    if 'edge' in resize:
        by_width = {'short': width < height, 'long': width > height, 'width': True}.get(resize['edge'], False)
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
