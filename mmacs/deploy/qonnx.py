"""Writes quantization as QONNX's ``Quant`` nodes, which FPGA flows (FINN, hls4ml) read at any bit-width.

Pappalardo et al., "QONNX: Representing Arbitrary-Precision Quantized Neural Networks", 2022, arXiv 2206.07527. Import
it after :func:`~.packages.require`.
"""

from typing import Tuple

import numpy as np
import onnx_ir as ir

from mmacs.deploy.graph import Builder, attributes_of, own_nodes
from mmacs.deploy.modules.activation import QUANTIZE
from mmacs.deploy.modules.weight import WEIGHT
from mmacs.deploy.qcdq import column, transpose_weights

DOMAIN = 'qonnx.custom_op.general'


def write_qonnx(model: ir.Model) -> None:
    """Put QONNX's operators in the place of our nodes, in place.

    Weights are stored in float32 there, as the values that their ``Quant`` leaves as they are.

    Args:
        model (Model): A graph of :func:`~.graph.traced`.
    """
    transpose_weights(model)
    for node in own_nodes(model, WEIGHT):
        _write_weight(node)
    for node in own_nodes(model, QUANTIZE):
        _write_quantizer(node)
    model.opset_imports[DOMAIN] = 1


def _quant(build: Builder, x: ir.Value, scale: ir.Value, name: str, *, zero: int, bits: int, signed: bool) -> ir.Value:
    numbers = [
        build.constant(np.float32(number), f'{name}/{key}') for key, number in (('zero_point', zero), ('bits', bits))
    ]
    attributes = {'signed': int(signed), 'narrow': 0, 'rounding_mode': 'ROUND'}
    return build.add('Quant', [x, scale, *numbers], ir.DataType.FLOAT, x.shape, name, attributes, DOMAIN)


def _write_quantizer(node: ir.Node) -> None:
    x, step = node.inputs
    given, build = attributes_of(node), Builder(node)
    low, high = given['low'], given['high']
    bits = (high - low).bit_length()
    signed = low == -(2 ** (bits - 1))
    scale = build.constant(column(step.const_value.numpy(), x.shape), f'{step.name}/column')
    build.replace(_quant(build, x, scale, given['name'], zero=0 if signed else -low, bits=bits, signed=signed))


def _write_weight(node: ir.Node) -> None:
    build = Builder(node)
    levels, multiplier, shift, scale = (value.const_value.numpy() for value in node.inputs)
    codes, scale, bits = signed_codes(levels.astype(np.int32) * multiplier + shift, scale, attributes_of(node)['bits'])
    name = node.inputs[3].name  # of which there is one for each BatchNorm that was folded in
    stored = build.constant((codes * scale).astype(np.float32), f'{name}/weight')
    scale = build.constant(scale, f'{name}/quant')
    build.replace(_quant(build, stored, scale, f'{name}/quantized', zero=0, bits=bits, signed=True))


def signed_codes(codes: np.ndarray, scale: np.ndarray, bits: int) -> Tuple[np.ndarray, np.ndarray, int]:
    """Returns integers of as few bits as can be, of two's complement, with their scales.

    A channel that BatchNorm turned round may hold the opposite of the lowest level: there the scale is negative.

    Args:
        codes (np.ndarray): Integers.
        scale (np.ndarray): Positive scales, which broadcast against them.
        bits (int): Number of bits of the levels.
    """
    axes = tuple(axis for axis, size in enumerate(scale.shape) if size == 1)
    turned = codes.max(axes, keepdims=True) > 2 ** (bits - 1) - 1
    turned &= -codes.max(axes, keepdims=True) >= -(2 ** (bits - 1))
    turned &= -codes.min(axes, keepdims=True) <= 2 ** (bits - 1) - 1
    sign = np.where(turned, -1, 1).astype(np.int32)
    codes = codes * sign
    needed = max(int(codes.max()), -int(codes.min()) - 1).bit_length() + 1
    return codes, np.ascontiguousarray(scale * sign, np.float32), max(bits, needed)
