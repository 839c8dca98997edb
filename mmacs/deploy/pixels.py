"""Raw pixels into what a model sees: a part of the exported graph."""

import torch
from torch import Tensor, nn

from mmacs.utils.errors import MmacsError


class Pixels(nn.Module):
    """Puts channels in the model's order and normalises them, as a data preprocessor does; it pads nothing.

    Args:
        data_preprocessor (nn.Module): Of MMEngine, MMDetection or MMPreTrain.

    Raises:
        MmacsError: If it is of another kind.
    """

    def __init__(self, data_preprocessor: nn.Module) -> None:
        super().__init__()
        if not hasattr(data_preprocessor, '_enable_normalize'):
            raise MmacsError(
                f'what {type(data_preprocessor).__name__} does to pixels is not known here, so that it cannot be '
                'exported: use MMDetection\'s "DetDataPreprocessor" or MMPreTrain\'s "ClsDataPreprocessor"'
            )
        # named by MMEngine and MMPreTrain
        swaps = any(getattr(data_preprocessor, name, False) for name in ('_channel_conversion', 'to_rgb'))
        self.register_buffer('order', torch.tensor([2, 1, 0]) if swaps else None)
        normalises = data_preprocessor._enable_normalize
        for name in ('mean', 'std'):
            value = getattr(data_preprocessor, name).detach().clone() if normalises else None
            self.register_buffer(name, value)

    def forward(self, images: Tensor) -> Tensor:
        """Returns normalised images.

        Args:
            images (Tensor): Pixels from 0 to 255, float32, shape (B, 3, H, W), channels as the data pipeline's loader
                gives them: BGR if it is MMCV's.
        """
        if self.order is not None:
            images = images[:, self.order]
        return images if self.mean is None else (images - self.mean) / self.std
