"""What is known of the transforms of MMCV, MMDetection and MMPreTrain, by name, as configs have them."""

from typing import Union

_LOADING = ('LoadImage', 'LoadAnnotations', 'LoadPanopticAnnotations')
_MIXING = ('Mosaic', 'MixUp', 'CopyPaste')


def transform_name(kind: Union[str, type]) -> str:
    """Returns the name of a transform, without its scope.

    Args:
        kind (str or type): The ``type`` in its config.
    """
    return (kind if isinstance(kind, str) else kind.__name__).split('.')[-1]


def loads(kind: Union[str, type]) -> bool:
    """Returns whether a transform loads an image or its annotations."""
    return transform_name(kind).startswith(_LOADING)


def mixes_images(kind: Union[str, type]) -> bool:
    """Returns whether one image stands for several after a transform."""
    return any(part in transform_name(kind) for part in _MIXING)
