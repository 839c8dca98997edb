"""What is known of the transforms of MMCV, MMDetection and MMPreTrain, by name, as configs have them."""

from typing import Optional, Sequence, Tuple, Union

from mmacs.utils.type_names import type_name

_LOADING = ('LoadImage', 'LoadAnnotations', 'LoadPanopticAnnotations')
_FILE_READER, _ARRAY_READER = 'LoadImageFromFile.transform', 'LoadImageFromNDArray.transform'
_LIBRARIES = ('mmcv', 'mmdet', 'mmpretrain', 'mmacs')
_MIXING = ('Mosaic', 'MixUp', 'CopyPaste')


def loads(kind: Union[str, type]) -> bool:
    """Returns whether a transform loads an image or its annotations."""
    return type_name(kind).startswith(_LOADING)


def image_reader(transforms: Sequence[object]) -> Tuple[str, Optional[object]]:
    """Returns where built transforms take an image from, and by which of them.

    Args:
        transforms (Sequence[object]): Those of a pipeline.

    Returns:
        Tuple[str, object]: ``'file'`` and the transform that reads ``img_path`` as MMCV's ``LoadImageFromFile`` does,
        with its ``backend_args`` and ``file_client_args``; ``'array'`` and None where the image is the array ``img`` of
        its info; ``'unknown'`` and the transform that makes images in a way of its own.
    """
    reader = None
    for transform in transforms:
        kind = type(transform)
        place = getattr(getattr(kind, 'transform', None), '__qualname__', '')
        if place == _FILE_READER:
            reader = transform
        elif place != _ARRAY_READER and _makes_images(kind):
            return 'unknown', transform
    return ('array', None) if reader is None else ('file', reader)


def _makes_images(kind: type) -> bool:
    """Returns whether a transform that is not a known reader of images may be one."""
    name, library = kind.__name__, kind.__module__.partition('.')[0]
    inherits = any(base.__name__ == 'LoadImageFromFile' for base in kind.__mro__)
    return (
        inherits or name == 'LoadMultiChannelImageFromFiles' or (name.startswith('Load') and library not in _LIBRARIES)
    )


def mixes_images(kind: Union[str, type]) -> bool:
    """Returns whether one image stands for several after a transform."""
    return any(part in type_name(kind) for part in _MIXING)
