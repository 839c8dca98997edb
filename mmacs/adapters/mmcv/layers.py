"""Quantized versions of mmcv's convolutions and linear maps."""

from typing import Tuple, Union

import torch
from mmcv.cnn.bricks import conv2d_adaptive_padding
from mmcv.cnn.bricks.conv_ws import ConvAWS2d, ConvWS2d
from mmcv.cnn.bricks.wrappers import Conv2d, ConvTranspose2d, Linear
from torch import Tensor
from torch.nn import functional

from mmacs.quantization.layers import QuantizedConv2d, QuantizedConvTranspose2d, QuantizedLinear, register_layer
from mmacs.quantization.layers.base import ReusedForward

# these differ from torch's for empty inputs under torch <= 1.4 alone
register_layer(Conv2d)(QuantizedConv2d)
register_layer(ConvTranspose2d)(QuantizedConvTranspose2d)
register_layer(Linear)(QuantizedLinear)


class Conv2dAdaptivePadding(conv2d_adaptive_padding.Conv2dAdaptivePadding):
    """Mmcv's, with less arithmetic on sizes: where these are symbols, its own grows with every layer without end."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H / stride, W / stride), rounded up."""
        axes = zip(x.shape[-2:], self.weight.shape[-2:], self.stride, self.dilation)
        (top, bottom), (left, right) = (_same_padding(*axis) for axis in axes)
        padding = 0, 0
        if all(isinstance(side, int) for side in (top, bottom, left, right)) and (top, left) == (bottom, right):
            padding = top, left
        else:
            x = functional.pad(x, (left, right, top, bottom))
        return functional.conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


def _same_padding(
    size: Union[int, torch.SymInt], kernel: int, stride: int, dilation: int
) -> Tuple[Union[int, torch.SymInt], Union[int, torch.SymInt]]:
    """Returns how many zeros go before and after an axis, as TensorFlow has it."""
    reach = (kernel - 1) * dilation + 1
    if reach == 1:
        return 0, 0
    missing = reach - stride + (-size % stride if stride > 1 else 0)
    if reach < stride:
        missing = max(missing, 0)
    return missing // 2, missing - missing // 2


@register_layer(conv2d_adaptive_padding.Conv2dAdaptivePadding)
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
        """Returns the standardized weight with its fixed scale and shift per output channel."""
        return self._get_weight(self.weight)
