"""Raw pixels into what a model sees: a part of the exported graph."""

import torch
from torch import Tensor, nn

from mmacs.adapters.mmengine.pixel_settings import pixel_settings


class Pixels(nn.Module):
    """Puts channels in the model's order and normalises them, as a data preprocessor does; it pads nothing.

    Args:
        data_preprocessor (nn.Module): See :func:`~mmacs.adapters.mmengine.pixel_settings.pixel_settings`.
    """

    def __init__(self, data_preprocessor: nn.Module) -> None:
        super().__init__()
        settings = pixel_settings(data_preprocessor)
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
