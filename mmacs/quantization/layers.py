"""Quantized versions of leaf layers. A layer becomes one by having its class swapped, in place."""

from typing import Dict, Optional, Type

import torch
from torch import Tensor, nn

QUANTIZED_LAYERS: Dict[Type[nn.Module], Type[nn.Module]] = {}


def register_layer(original: Type[nn.Module]):
    """Declare the decorated class as the quantized version of exactly the type ``original``.

    Subclasses are not covered: they may use the weight in ways of their own.
    """

    def register(quantized: Type[nn.Module]) -> Type[nn.Module]:
        QUANTIZED_LAYERS[original] = quantized
        return quantized

    return register


class QuantizedLayer:
    """Marks a quantized layer, which has the children ``input_quantizer`` and ``weight_quantizer``.

    Either is a :class:`~mmacs.quantization.quantizers.Quantizer`, or ``nn.Identity`` where the recipe keeps full
    precision.
    """

    inputs = ('input_quantizer',)  # names of its input quantizers
    input_channel_axis = 1

    def weight_to_quantize(self) -> Tensor:
        return self.weight

    def original_weight(self) -> Tensor:
        return self.weight

    shared = False  # whether it is applied several times in one forward, see mmacs.quantization.sharing
    # While a forward runs: the fake-quantized weight by whether it carries gradients, once it is computed.
    weights_of_this_forward: Optional[Dict[bool, Tensor]] = None

    def quantized_weight(self) -> Tensor:
        """The fake-quantized weight, computed once per forward where the layer is shared between pyramid levels."""
        weights = self.weights_of_this_forward
        if weights is None:
            return self.weight_quantizer(self.weight)
        with_gradient = torch.is_grad_enabled()
        if with_gradient not in weights:
            weights[with_gradient] = self.weight_quantizer(self.weight)
        return weights[with_gradient]


@register_layer(nn.Conv2d)
class QuantizedConv2d(QuantizedLayer, nn.Conv2d):
    """Convolution of a fake-quantized input with a fake-quantized weight."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H', W')."""
        return self._conv_forward(self.input_quantizer(x), self.quantized_weight(), self.bias)


@register_layer(nn.Linear)
class QuantizedLinear(QuantizedLayer, nn.Linear):
    """Linear map of a fake-quantized input with a fake-quantized weight."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C_in) to (..., C_out)."""
        return nn.functional.linear(self.input_quantizer(x), self.quantized_weight(), self.bias)


try:  # mmcv's own classes differ from torch's for empty inputs under torch <= 1.4 alone
    from mmcv.cnn.bricks.wrappers import Conv2d as _MMCVConv2d
    from mmcv.cnn.bricks.wrappers import Linear as _MMCVLinear

    register_layer(_MMCVConv2d)(QuantizedConv2d)
    register_layer(_MMCVLinear)(QuantizedLinear)
except ImportError:
    pass
