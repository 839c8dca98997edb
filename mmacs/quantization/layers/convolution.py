"""Quantized convolutions of torch and mmcv."""

from typing import List, Optional

import torch
from torch import Tensor, nn

from mmacs.quantization.layers.base import QuantizedLayer, ReusedForward, register_layer
from mmacs.quantization.layers.products import Convolution
from mmacs.quantization.recompute import recomputed


@register_layer(nn.Conv2d)
class QuantizedConv2d(QuantizedLayer, nn.Conv2d):
    """Convolution of a fake-quantized input with a fake-quantized weight."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H', W')."""
        x, weight = self.input_quantizer(x), self.quantized_weight()
        plain = x.dim() == 4 and self.padding_mode == 'zeros' and not isinstance(self.padding, str)
        convolve = (
            Convolution(self.stride, self.padding, self.dilation, False, (0, 0), self.groups)
            if plain
            else self._conv_forward
        )
        return recomputed(convolve, x, weight, self.bias)


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
        x = self.input_quantizer(x)
        if x.dim() == 3:
            return recomputed(convolve, x[None], self.quantized_weight(), self.bias)[0]
        return recomputed(convolve, x, self.quantized_weight(), self.bias)

    def weight_to_quantize(self) -> Tensor:
        """The weight as (C_out, C_in / groups, k, k)."""
        return _swap_channels(self.weight, self.groups)

    def restore_layout(self, weight: Tensor) -> Tensor:
        """(C_out, C_in / groups, k, k) to (C_in, C_out / groups, k, k)."""
        return _swap_channels(weight, self.groups)


def _swap_channels(weight: Tensor, groups: int) -> Tensor:
    """(groups * a, b, k, k) to (groups * b, a, k, k) within each group; its own inverse."""
    swapped = [part.transpose(0, 1) for part in weight.chunk(groups)]
    return swapped[0] if groups == 1 else torch.cat(swapped)


try:
    from mmcv.cnn.bricks.conv2d_adaptive_padding import Conv2dAdaptivePadding
    from mmcv.cnn.bricks.conv_ws import ConvAWS2d, ConvWS2d
    from mmcv.cnn.bricks.wrappers import Conv2d as MMCVConv2d
    from mmcv.cnn.bricks.wrappers import ConvTranspose2d as MMCVConvTranspose2d
except ImportError:
    pass
else:
    # mmcv's own classes differ from torch's for empty inputs under torch <= 1.4 alone
    register_layer(MMCVConv2d)(QuantizedConv2d)
    register_layer(MMCVConvTranspose2d)(QuantizedConvTranspose2d)

    @register_layer(Conv2dAdaptivePadding)
    class QuantizedConv2dAdaptivePadding(ReusedForward, Conv2dAdaptivePadding):
        """Convolution that pads its fake-quantized input as TensorFlow does; EfficientNet's."""

    class StandardizedConv2d(QuantizedConv2d):
        """Convolution whose weight is standardized before it is quantized."""

        def freeze_weight(self, weight: Tensor) -> None:
            """Become a plain convolution: what is quantized must not be standardized again."""
            super().freeze_weight(weight)
            self.__class__ = QuantizedConv2d

    @register_layer(ConvWS2d)
    class QuantizedConvWS2d(StandardizedConv2d, ConvWS2d):
        """Convolution with a standardized weight, which is what is quantized."""

        def weight_to_quantize(self) -> Tensor:
            """The weight with mean 0 and standard deviation 1 per output channel, as mmcv's ``conv_ws_2d`` has it."""
            flat = self.weight.flatten(1)
            mean, std = (statistic[..., None, None] for statistic in (flat.mean(1, True), flat.std(1, keepdim=True)))
            return (self.weight - mean) / (std + self.eps)

    @register_layer(ConvAWS2d)
    class QuantizedConvAWS2d(StandardizedConv2d, ConvAWS2d):
        """Convolution with an adaptively standardized weight, which is what is quantized; DetectoRS's."""

        def weight_to_quantize(self) -> Tensor:
            """The standardized weight with its fixed scale and shift per output channel."""
            return self._get_weight(self.weight)
