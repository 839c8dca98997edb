"""What data preprocessors do to pixels, by attributes that no interface of theirs gives."""

from typing import Any, Dict

from torch import nn

from mmacs.utils.errors import MmacsError


def pixel_settings(data_preprocessor: nn.Module) -> Dict[str, Any]:
    """Returns what a data preprocessor was built from, as far as it concerns pixels.

    Args:
        data_preprocessor (nn.Module): Of MMEngine, MMDetection or MMPreTrain.

    Returns:
        dict: ``bgr_to_rgb``, whether channels are swapped, ``mean`` and ``std`` in the model's order, None without
        normalisation, ``pad_value``, after normalisation, and ``pad_size_divisor``.

    Raises:
        MmacsError: If it is of another kind.
    """
    if not hasattr(data_preprocessor, '_enable_normalize'):
        raise MmacsError(
            f'what {type(data_preprocessor).__name__} does to pixels is not known here, so that it cannot be '
            'exported: use MMDetection\'s "DetDataPreprocessor" or MMPreTrain\'s "ClsDataPreprocessor"'
        )
    normalises = data_preprocessor._enable_normalize
    mean, std = (
        getattr(data_preprocessor, name).flatten().tolist() if normalises else None for name in ('mean', 'std')
    )
    return {
        # named by MMEngine and MMPreTrain
        'bgr_to_rgb': any(getattr(data_preprocessor, name, False) for name in ('_channel_conversion', 'to_rgb')),
        'mean': mean,
        'std': std,
        'pad_value': data_preprocessor.pad_value,
        'pad_size_divisor': data_preprocessor.pad_size_divisor,
    }
