"""Writes quantization as QuantizeLinear, Clip on the integers, and DequantizeLinear, as runtimes fuse them.

What fuses where was measured; ``docs/deployment.md`` has it. Import it after :func:`~.packages.require`.
"""

from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import onnx_ir as ir

from mmacs.deploy.graph import Builder, attributes_of, own_nodes
from mmacs.deploy.modules.activation import QUANTIZE
from mmacs.deploy.modules.weight import TABLE, WEIGHT

CONVOLUTIONS = ('Conv', 'ConvTranspose')
PASSED = ('Relu', 'MaxPool', 'Reshape', 'Transpose', 'Flatten', 'Squeeze', 'Unsqueeze', 'Slice', 'Gather', 'Identity')
NO_BIAS = 1e-30
ENDS = {np.dtype(np.uint8): (0, 255), np.dtype(np.int8): (-128, 127)}


def write_qcdq(model: ir.Model, tensorrt: bool = False) -> None:
    """Put operators of ONNX in the place of our nodes, in place.

    Args:
        model (Model): A graph of :func:`~.graph.traced`.
        tensorrt (bool): Whether activations are clipped before they are rounded, in floats, and all weights are
            dequantized by DequantizeLinear.
    """
    transpose_weights(model)
    absorb_clips(model)
    float_readers = [node for node in model.graph if _has_float_weight(node)]
    for node in own_nodes(model, WEIGHT):
        for reader in node.outputs[0].consumers():
            if reader.op_type in CONVOLUTIONS:
                _require_bias(reader)
        _write_weight(node, tensorrt)
    for node in own_nodes(model, TABLE):
        _write_table(node)
    for node in own_nodes(model, QUANTIZE):
        _write_quantizer(node, tensorrt, float_readers)


def transpose_weights(model: ir.Model) -> None:
    """Store weights as they are multiplied with, in place: linear maps of more than two axes transpose them."""
    for node in own_nodes(model, WEIGHT):
        readers = list(node.outputs[0].consumers())
        if not readers or any(reader.op_type != 'Transpose' for reader in readers):
            continue
        orders = {tuple(reader.attributes['perm'].value) for reader in readers}
        if len(orders) > 1:
            continue
        (order,) = orders
        build = Builder(node)
        for place, value in enumerate(node.inputs):
            array = value.const_value.numpy().transpose(order)
            name = f'{value.name}.' + ''.join(map(str, order))
            node.replace_input_with(place, build.constant(np.ascontiguousarray(array), name))
        (made,) = node.outputs
        made.shape = node.inputs[0].shape
        for reader in readers:
            ir.convenience.replace_all_uses_with(reader.outputs[0], made, replace_graph_outputs=True)
            model.graph.remove(reader, safe=True)


def absorb_clips(model: ir.Model) -> None:
    """Round before a Clip, as that of ReLU6, rather than after it, in place; the integers are clipped instead.

    Rounding keeps the order of values, so that both give the same. Runtimes make one integer convolution of a
    convolution and the quantizer right after it. They absorb a ReLU by themselves where there are no negative levels.
    """
    for node in own_nodes(model, QUANTIZE):
        given, step = attributes_of(node), node.inputs[1].const_value.numpy()
        source = node.inputs[0].producer()
        if step.ndim or source is None or source.op_type not in ('Relu', 'Clip'):
            continue
        readers = list(source.outputs[0].consumers())
        if source.outputs[0].is_graph_output() or any(f'{each.domain}::{each.op_type}' != QUANTIZE for each in readers):
            continue
        ends = _ends_of(source)
        if ends is None or (source.op_type == 'Relu' and given['low'] >= 0):
            continue
        first, last = (np.round(np.float32(end) / step) for end in ends)
        low = int(min(max(given['low'], first), given['high']))
        high = int(max(min(given['high'], last), low))
        node.attributes['low'], node.attributes['high'] = ir.AttrInt64('low', low), ir.AttrInt64('high', high)
        node.replace_input_with(0, source.inputs[0])
        if not source.outputs[0].consumers():
            model.graph.remove(source, safe=True)


def _ends_of(node: ir.Node) -> Optional[Tuple[float, float]]:
    """Smallest and largest value that a ReLU or Clip gives; None if they are computed."""
    if node.op_type == 'Relu':
        return 0.0, np.inf
    ends = []
    for place, other in ((1, -np.inf), (2, np.inf)):
        value = node.inputs[place] if len(node.inputs) > place else None
        if value is not None and value.const_value is None:
            return None
        ends.append(other if value is None else float(value.const_value.numpy()))
    return ends[0], ends[1]


def _require_bias(node: ir.Node) -> None:
    """Give a convolution a bias that is not zero, though nothing beside any value that it is added to.

    OpenVINO (2026.4) computes integer convolutions wrongly that have none, and whose result is quantized and read by
    others, too.
    """
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and (bias.const_value is None or bias.const_value.numpy().any()):
        return
    channels = node.outputs[0].shape[1]
    node.resize_inputs(3)
    node.replace_input_with(2, Builder(node).constant(np.full(channels, NO_BIAS, np.float32), f'no_bias_{channels}'))


def _has_float_weight(node: ir.Node) -> bool:
    """Returns whether a layer multiplies with a weight in full precision."""
    return node.op_type in (*CONVOLUTIONS, 'MatMul', 'Gemm') and _is_float_weight(node.inputs[1])


def _is_float_weight(value: ir.Value) -> bool:
    """Returns whether a value is stored in floats, or looked up in a table of such."""
    maker = value.producer()
    if maker is None or value.const_value is not None:
        return value.const_value is not None
    if maker.op_type in ('Reshape', 'Transpose', 'Split', 'Slice'):
        return _is_float_weight(maker.inputs[0])
    if maker.op_type == 'Concat':
        return all(map(_is_float_weight, maker.inputs))
    return f'{maker.domain}::{maker.op_type}' == TABLE


def _write_quantizer(node: ir.Node, tensorrt: bool, float_readers: Sequence[ir.Node]) -> None:
    x, step = node.inputs
    given, build = attributes_of(node), Builder(node)
    name, low, high = given['name'], given['low'], given['high']
    dtype = np.dtype(np.int8 if given['signed_storage'] else np.uint8)
    kind, shape = ir.DataType.from_numpy(dtype), node.outputs[0].shape
    scale = step.const_value.numpy()
    axis = {'axis': 1} if scale.ndim else {}
    if not given['is_stored']:
        build.replace(_rounded_in_floats(build, x, step, low, high, shape))
        return
    zero = np.full(scale.shape, given['zero_point'], dtype)
    zero = build.constant(zero, f'{name}/zero_point')
    ends = low + given['zero_point'], high + given['zero_point']
    is_whole = ends == ENDS[dtype]
    if tensorrt and not is_whole:
        x = _clipped(build, x, *(column(scale, shape) * np.float32(end) for end in (low, high)), name)
    value = build.add('QuantizeLinear', [x, step, zero], kind, shape, None, axis)
    if not (is_whole or tensorrt):
        bounds = [build.constant(np.array(end, dtype), f'{name}/{key}') for key, end in zip(('low', 'high'), ends)]
        value = build.add('Clip', [value, *bounds], kind, shape)
    if not tensorrt and _is_added_alone(node):
        value = build.add('MaxPool', [value], kind, shape, None, {'kernel_shape': [1] * (len(shape) - 2)})
    value.name = name
    _pad_integers(build, value, step, zero, axis)
    _feed_float_layers(build, value, step, given['zero_point'], float_readers)
    build.replace(build.add('DequantizeLinear', [value, step, zero], ir.DataType.FLOAT, shape, None, axis))


def _is_added_alone(node: ir.Node) -> bool:
    """Returns whether nothing but an addition reads a quantized feature map.

    OpenVINO (2026.4) makes one operation of a convolution, the quantizer of its result and such an addition, and does
    not round in between. A pooling of single values keeps the three apart.
    """
    (value,) = node.outputs
    readers = list(value.consumers())
    is_added = bool(readers) and all(reader.op_type in ('Add', 'Sum') for reader in readers)
    return is_added and len(value.shape) > 2 and not value.is_graph_output()


def _pad_integers(build: Builder, value: ir.Value, step: ir.Value, zero: ir.Value, axis: Mapping[str, int]) -> None:
    """Pad integers rather than what they stand for, so that a convolution reads them as they are dequantized."""
    for reader in list(build.at.outputs[0].consumers()):
        if reader.op_type != 'Pad' or axis or not _pads_with_zeros(reader):
            continue
        shape = reader.outputs[0].shape
        inputs = [value, reader.inputs[1], zero, *reader.inputs[3:]]
        padded = build.add('Pad', inputs, value.dtype, shape, None, attributes_of(reader), before=reader)
        values = build.add('DequantizeLinear', [padded, step, zero], ir.DataType.FLOAT, shape, None, before=reader)
        ir.convenience.replace_all_uses_with(reader.outputs[0], values, replace_graph_outputs=True)
        build.graph.remove(reader, safe=True)


def _pads_with_zeros(node: ir.Node) -> bool:
    """Whether a Pad repeats values that are there, or zeros."""
    constant = node.inputs[2] if len(node.inputs) > 2 else None
    if attributes_of(node).get('mode', 'constant') != 'constant' or constant is None:
        return True
    return constant.const_value is not None and not constant.const_value.numpy().any()


def _feed_float_layers(
    build: Builder, value: ir.Value, step: ir.Value, zero_point: int, float_readers: Sequence[ir.Node]
) -> None:
    """Dequantize for layers with a float weight by arithmetic.

    Behind a DequantizeLinear, ONNX Runtime would round their weights to 8 bits of its own.
    """
    (old,) = build.at.outputs
    readers = [node for node in old.consumers() if node in float_readers and node.inputs[0] is old]
    if not readers:
        return
    by = build.constant(column(step.const_value.numpy(), old.shape), f'{step.name}/column')
    floats = build.add('Cast', [value], ir.DataType.FLOAT, old.shape, None, {'to': ir.DataType.FLOAT})
    if zero_point:
        zero = build.constant(np.float32(zero_point), f'zero_point_{zero_point}')
        floats = build.add('Sub', [floats, zero], ir.DataType.FLOAT, old.shape)
    floats = build.add('Mul', [floats, by], ir.DataType.FLOAT, old.shape)
    for reader in readers:
        reader.replace_input_with(0, floats)


def _rounded_in_floats(build: Builder, x: ir.Value, step: ir.Value, low: int, high: int, shape: ir.Shape) -> ir.Value:
    """What 8-bit integers with zero at 0 do not hold."""
    name = f'{step.name}/column'
    by = build.constant(column(step.const_value.numpy(), shape), name)
    value = build.add('Div', [x, by], ir.DataType.FLOAT, shape)
    value = build.add('Round', [value], ir.DataType.FLOAT, shape)
    value = _clipped(build, value, np.float32(low), np.float32(high), name)
    return build.add('Mul', [value, by], ir.DataType.FLOAT, shape)


def column(row: np.ndarray, shape: ir.Shape) -> np.ndarray:
    """One number per channel, as it broadcasts against (N, C, ...)."""
    return row.reshape(-1, *[1] * (len(shape) - 2)) if row.ndim else row


def _clipped(build: Builder, x: ir.Value, low: np.ndarray, high: np.ndarray, name: str) -> ir.Value:
    for kind, end in (('Max', low), ('Min', high)):
        x = build.add(kind, [x, build.constant(end, f'{name}/{kind}')], ir.DataType.FLOAT, x.shape)
    return x


def _write_weight(node: ir.Node, tensorrt: bool) -> None:
    build, shape = Builder(node), node.outputs[0].shape
    levels, multiplier, shift, scale = (value.const_value.numpy() for value in node.inputs)
    codes = _codes(node, build, levels, multiplier, shift)
    row, axis = _row(scale)
    forms: Dict[bool, ir.Value] = {}
    for reader in list(node.outputs[0].consumers()):
        in_floats = axis is None or (not tensorrt and is_float_convolution(reader))
        if in_floats not in forms:
            if in_floats:
                floats = build.add('Cast', [codes], ir.DataType.FLOAT, shape, None, {'to': ir.DataType.FLOAT})
                forms[in_floats] = build.add('Mul', [floats, node.inputs[3]], ir.DataType.FLOAT, shape)
            else:
                name = f'{node.inputs[3].name}/row'
                zero = build.constant(np.zeros(row.shape, np.int8), f'{name}/zero_point')
                inputs = [codes, build.constant(row, name), zero]  # without it ONNX Runtime makes no integer Gemm
                given = {'axis': axis} if row.ndim else {}
                forms[in_floats] = build.add('DequantizeLinear', inputs, ir.DataType.FLOAT, shape, None, given)
        for place, value in enumerate(reader.inputs):
            if value is node.outputs[0]:
                reader.replace_input_with(place, forms[in_floats])
    build.graph.remove(node, safe=True)


def _codes(node: ir.Node, build: Builder, levels: np.ndarray, multiplier: np.ndarray, shift: np.ndarray) -> ir.Value:
    """Returns the int8 weight, made of what is stored: up to 4 bits two levels in a byte."""
    shape, stored = node.outputs[0].shape, node.inputs[0]
    if attributes_of(node)['bits'] > 4:  # OpenVINO computes with such integers only as they are stored
        codes = levels.astype(np.int32) * multiplier + shift
        parts = [value.name.rpartition('.')[2] for value in node.inputs[1:3]]  # several levels may share one
        return build.constant(codes.astype(np.int8), f'{stored.name}/{"/".join(parts)}')
    dtype = ir.DataType.INT4 if levels.dtype == np.int8 else ir.DataType.UINT4
    stored = build.constant(levels.astype(dtype.numpy()), f'{stored.name}/{dtype.name.lower()}', dtype)
    if (multiplier == 1).all() and (shift == 0).all():
        return build.add('Cast', [stored], ir.DataType.INT8, shape, None, {'to': ir.DataType.INT8})
    value = build.add('Cast', [stored], ir.DataType.INT32, shape, None, {'to': ir.DataType.INT32})
    if not (multiplier == 1).all():
        value = build.add('Mul', [value, node.inputs[1]], ir.DataType.INT32, shape)
    if not (shift == 0).all():
        value = build.add('Add', [value, node.inputs[2]], ir.DataType.INT32, shape)
    return build.add('Cast', [value], ir.DataType.INT8, shape, None, {'to': ir.DataType.INT8})


def _write_table(node: ir.Node) -> None:
    """Look a weight up: up to 4 bits two numbers of levels in a byte."""
    build, shape, (table, stored) = Builder(node), node.outputs[0].shape, node.inputs
    if attributes_of(node)['bits'] <= 4:
        dtype = ir.DataType.UINT4
        stored = build.constant(stored.const_value.numpy().astype(dtype.numpy()), f'{stored.name}/uint4', dtype)
    levels = build.add('Cast', [stored], ir.DataType.INT32, shape, None, {'to': ir.DataType.INT32})
    build.replace(build.add('GatherElements', [table, levels], ir.DataType.FLOAT, shape, None, {'axis': 1}))


def _row(scale: np.ndarray) -> Tuple[np.ndarray, Optional[int]]:
    """Returns scales as DequantizeLinear takes them, and their axis; None if there are several."""
    axes = [axis for axis, size in enumerate(scale.shape) if size > 1]
    if len(axes) > 1:
        return scale, None
    return (scale.reshape(-1), axes[0]) if axes else (scale.reshape(()), 0)


def is_float_convolution(node: ir.Node) -> bool:
    """Returns whether a convolution's result stays float, so that its weight had better be ready.

    ONNX Runtime rounds a float weight anew, to 8 bits of its own, where the result goes to a single quantizer; it moves
    that up through what leaves values as they are. There DequantizeLinear is the one form that stays exact.
    """
    if node.op_type not in CONVOLUTIONS:
        return False
    reader = _only_reader(node.outputs[0])
    while reader is not None and reader.op_type in PASSED:
        reader = _only_reader(reader.outputs[0])
    return reader is None or f'{reader.domain}::{reader.op_type}' != QUANTIZE


def _only_reader(value: ir.Value) -> Optional[ir.Node]:
    """The node that reads a value, if there is one, or several quantizers that do the same: runtimes merge these."""
    readers: List[ir.Node] = list(value.consumers())
    if not readers or value.is_graph_output():
        return None
    return readers[0] if len({_what_it_does(reader) for reader in readers}) == 1 else None


def _what_it_does(node: ir.Node) -> Tuple:
    if f'{node.domain}::{node.op_type}' != QUANTIZE:
        return (id(node),)
    alike = {name: value for name, value in attributes_of(node).items() if name != 'name'}
    return node.inputs[1].const_value.numpy().tobytes(), *sorted(alike.items())
