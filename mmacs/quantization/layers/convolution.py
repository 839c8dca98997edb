"""Quantized convolutions of torch."""

from typing import List, Optional

import torch
from torch import Tensor, nn

from mmacs.quantization.layers.base import QuantizedLayer, register_layer
from mmacs.quantization.layers.products import Convolution
from mmacs.quantization.recompute import recomputed


@register_layer(nn.Conv2d)
class QuantizedConv2d(QuantizedLayer, nn.Conv2d):
    """Convolution of a fake-quantized input with a fake-quantized weight."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H', W')."""
        x, weight = self.quantized_input(x), self.quantized_weight()
        plain = x.dim() == 4 and self.padding_mode == 'zeros' and not isinstance(self.padding, str)
        convolve = (
            Convolution(self.stride, self.padding, self.dilation, False, (0, 0), self.groups)
            if plain
            else self._conv_forward
        )
        return self.quantized_output(recomputed(convolve, x, weight, self.bias))


@register_layer(nn.ConvTranspose2d)
class QuantizedConvTranspose2d(QuantizedLayer, nn.ConvTranspose2d):
    """Transposed convolution; its weight is (C_in, C_out / groups, k, k), the quantizer's (C_out, C_in / groups, k, k).

    The input channels of group g meet its output channels alone, so that each output channel has a row of its own.
    """

    def forward(self, x: Tensor, output_size: Optional[List[int]] = None) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H', W'), of ``output_size`` where several sizes are possible."""
        output_padding = self._output_padding(
            x, output_size, self.stride, self.padding, self.kernel_size, 2, self.dilation
        )
        convolve = Convolution(self.stride, self.padding, self.dilation, True, tuple(output_padding), self.groups)
        x = self.quantized_input(x)
        batched = x.dim() == 4
        y = recomputed(convolve, x if batched else x[None], self.quantized_weight(), self.bias)
        return self.quantized_output(y if batched else y[0])

    def weight_to_quantize(self) -> Tensor:
        """Returns the weight as (C_out, C_in / groups, k, k)."""
        return _swap_channels(self.weight, self.groups)

    def restore_layout(self, weight: Tensor) -> Tensor:
        """(C_out, C_in / groups, k, k) to (C_in, C_out / groups, k, k)."""
        return _swap_channels(weight, self.groups)


def _swap_channels(weight: Tensor, groups: int) -> Tensor:
    """(groups * a, b, k, k) to (groups * b, a, k, k) within each group; its own inverse."""
    swapped = [part.transpose(0, 1) for part in weight.chunk(groups)]
    return swapped[0] if groups == 1 else torch.cat(swapped)
