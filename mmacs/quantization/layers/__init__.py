"""Quantized versions of leaf layers. A layer becomes one by having its class swapped, in place."""

from mmacs.quantization.layers.attention import QuantizedMultiheadAttention
from mmacs.quantization.layers.base import (
    QUANTIZED_LAYERS,
    QuantizedLayer,
    quantizable_layers,
    register_layer,
    register_weight_reader,
)
from mmacs.quantization.layers.convolution import QuantizedConv2d, QuantizedConvTranspose2d
from mmacs.quantization.layers.linear import QuantizedLinear

__all__ = [
    'QUANTIZED_LAYERS',
    'QuantizedConv2d',
    'QuantizedConvTranspose2d',
    'QuantizedLayer',
    'QuantizedLinear',
    'QuantizedMultiheadAttention',
    'quantizable_layers',
    'register_layer',
    'register_weight_reader',
]
