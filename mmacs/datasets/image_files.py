"""Image files as they are read: what is wrong with one, and how large it is."""

import io
import os
import traceback
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any, Callable, Dict, Optional, Tuple

import cv2
import numpy as np
from PIL import Image
from torch.utils.data import get_worker_info

from mmacs.utils.errors import MmacsError, reason

# What a whole file begins and ends with. Some begin so and end otherwise: those are decoded to know.
_ENDS = ((b'\xff\xd8', b'\xff\xd9'), (b'\x89PNG', b'IEND\xaeB`\x82'))


def through(pipeline: Callable[[Dict[str, Any]], Any], info: Dict[str, Any]) -> Any:
    """Bring an image through a pipeline.

    Args:
        pipeline (Callable): The transforms.
        info (dict): What the data set knows of the image; the pipeline may change it.

    Returns:
        Any: What the pipeline gives.

    Raises:
        MmacsError: If the pipeline fails and the image's file can't be read, or if that is cut off, of which OpenCV
            leaves the lower part grey; in a worker of a data loader also if a transform fails. Any other error of the
            pipeline is raised as it is.
    """
    path = info.get('img_path')
    try:
        data = pipeline(info)
    except MmacsError:
        raise
    except Exception as error:
        why = fault(path)
        if why is not None:
            raise MmacsError(f'cannot read image {path}: {why}') from error
        frames = list(traceback.walk_tb(error.__traceback__))
        found = next(filter(None, (failed_transform(frame, error) for frame, _ in reversed(frames))), None)
        if found is None or get_worker_info() is None:
            raise
        last, line = frames[-1]  # what leaves a worker is text, and has no frames to tell it from
        raise MmacsError(f'{found} ({last.f_code.co_filename}, line {line})') from error
    if data is not None and is_local(path) and not _ends_well(path):
        why = fault(path)
        if why is not None:
            raise MmacsError(f'cannot read image {path}: {why}')
    return data


def failed_transform(frame: FrameType, error: BaseException) -> Optional[str]:
    """Returns which transform failed, and on which image, if a frame of an error's traceback is a transform's."""
    local = frame.f_locals
    if frame.f_code.co_name != 'transform' or 'self' not in local or not isinstance(local.get('results'), dict):
        return None
    image = local['results'].get('img_path')
    on = f' on {image}' if image else ''
    return f'the transform {type(local["self"]).__name__} of the pipeline fails{on}: {reason(error)}'


def fault(path: Any) -> Optional[str]:
    """Returns why a local file can't be read as an image, None if it can, or is none of the local disk."""
    return _fault(os.fspath(path)) if is_local(path) else None


@lru_cache(maxsize=10000)
def _fault(path: str) -> Optional[str]:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        return str(error.strerror)
    except ValueError as error:  # a name that no file can have
        return str(error)
    if not content:
        return 'the file is empty'
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except Image.UnidentifiedImageError:
        return None if _decode(content) is not None else 'it is no image, or of an unknown kind'
    except Image.DecompressionBombError:
        return None
    except Exception as error:  # of whatever decoder
        return f'it is cut off or damaged ({error})'
    return None


def _decode(content: bytes) -> Optional[np.ndarray]:
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None


def is_local(path: Any) -> bool:
    """Returns whether something is a path of the local disk."""
    return isinstance(path, (str, os.PathLike)) and bool(path) and '://' not in str(path)


def _ends_well(path: os.PathLike) -> bool:
    """Returns whether a file ends as one of its kind does; True for kinds of which that isn't known."""
    try:
        with open(path, 'rb') as file:
            start = file.read(4)
            kind = next((end for begin, end in _ENDS if start.startswith(begin)), None)
            if kind is None:
                return True
            file.seek(-len(kind), os.SEEK_END)
            return file.read() == kind
    except (OSError, ValueError):  # an archive or a backend of one's own brought the image
        return True


def read_size(path: os.PathLike) -> Tuple[int, int]:
    """Returns width and height of an image in pixels as OpenCV reads it, turned as its EXIF data says.

    Raises:
        MmacsError: If it can't be read.
    """
    why = fault(path)
    pixels = None if why else _decode_as_read(path)
    if pixels is None:
        raise MmacsError(f'cannot read image {path}: {why or "it is of an unknown kind"}')
    return pixels.shape[1], pixels.shape[0]


def _decode_as_read(path: os.PathLike) -> Optional[np.ndarray]:
    try:
        return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error):
        return None
