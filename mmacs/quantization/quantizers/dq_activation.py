"""Activations of Direct Quantization (Hoang et al., IJCAI 2020, arXiv 2012.13762)."""

from typing import Any

import torch
from torch import Tensor

from mmacs.quantization.mse_clip import channel_sample, mse_clip_of_bits
from mmacs.quantization.quantizers.octav import OCTAV
from mmacs.utils.registry import QUANTIZERS


@QUANTIZERS.register_module()
class DQActivation(OCTAV):
    """One range for all channels that minimises the sum of the channels' *relative* errors.

    The paper's abstract has the quantization error minimised per channel, so that a few channels of high variance
    don't set the range for all. Our reading: the clip minimises ``sum_c ||x_c - Q(x_c)||^2 / ||x_c||^2``, by
    OCTAV's fixed point with the weight ``1 / ||x_c||^2`` for the elements of channel c. How the range follows the
    batches, the gradient, and all else are :class:`~.octav.OCTAV`'s.

    Args:
        channel_axis (int): Axis of the channels: 1 for convolutions, -1 for linear layers.
        **kwargs: See :class:`~.octav.OCTAV`.
    """

    kinds = ('activation',)

    def __init__(self, channel_axis: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channel_axis = channel_axis

    def best_clip(self, x: Tensor, signed: bool) -> Tensor:
        """Clip of float32 values that minimises the sum of their channels' relative errors, of shape (ranges,)."""
        if self.num_channels > 1:  # each by itself: relative errors are least where errors are
            return super().best_clip(x, signed)
        rows = channel_sample(x, self.channel_axis)
        energy = rows.square().sum(1)
        # a channel without energy has no relative error
        weights = torch.where(energy > 1e-30, 1 / energy, 0.0)
        return mse_clip_of_bits(rows, self.bits, signed, weights)
