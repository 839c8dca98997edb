"""Raw pixels into what a model sees: a part of the exported graph."""

from typing import Any, Dict

import torch
from torch import Tensor, nn

from mmacs.utils.errors import MmacsError


def settings_of(data_preprocessor: nn.Module) -> Dict[str, Any]:
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


class Pixels(nn.Module):
    """Puts channels in the model's order and normalises them, as a data preprocessor does; it pads nothing.

    Args:
        data_preprocessor (nn.Module): See :func:`settings_of`.
    """

    def __init__(self, data_preprocessor: nn.Module) -> None:
        super().__init__()
        settings = settings_of(data_preprocessor)
        self.register_buffer('order', torch.tensor([2, 1, 0]) if settings['bgr_to_rgb'] else None)
        for name in ('mean', 'std'):
            value = settings[name]
            self.register_buffer(name, None if value is None else torch.tensor(value).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Returns normalised images.

        Args:
            images (Tensor): Pixels from 0 to 255, float32, shape (B, 3, H, W), channels as the data pipeline's loader
                gives them: BGR if it is MMCV's.
        """
        if self.order is not None:
            images = images[:, self.order]
        return images if self.mean is None else (images - self.mean) / self.std
