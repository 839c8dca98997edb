"""Quantized linear maps of torch."""

from torch import Tensor, nn

from mmacs.quantization.layers.base import QuantizedLayer, register_layer
from mmacs.quantization.layers.products import Product
from mmacs.quantization.recompute import recomputed


@register_layer(nn.Linear)
class QuantizedLinear(QuantizedLayer, nn.Linear):
    """Linear map of a fake-quantized input with a fake-quantized weight."""

    input_channel_axis = -1

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C_in) to (..., C_out)."""
        return self.quantized_output(recomputed(Product(), self.input_quantizer(x), self.quantized_weight(), self.bias))
