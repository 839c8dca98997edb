"""Quantized versions of mmcv's convolutions and linear maps."""

from mmcv.cnn.bricks.conv2d_adaptive_padding import Conv2dAdaptivePadding
from mmcv.cnn.bricks.conv_ws import ConvAWS2d, ConvWS2d
from mmcv.cnn.bricks.wrappers import Conv2d, ConvTranspose2d, Linear
from torch import Tensor

from mmacs.quantization.layers import QuantizedConv2d, QuantizedConvTranspose2d, QuantizedLinear, register_layer
from mmacs.quantization.layers.base import ReusedForward

# these differ from torch's for empty inputs under torch <= 1.4 alone
register_layer(Conv2d)(QuantizedConv2d)
register_layer(ConvTranspose2d)(QuantizedConvTranspose2d)
register_layer(Linear)(QuantizedLinear)


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
