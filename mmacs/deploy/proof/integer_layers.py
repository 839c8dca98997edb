"""Which layers a runtime computes in integers, and why the others are computed in floats, from the graph alone.

The rules are those of ONNX Runtime 1.32 on x86 and of OpenVINO 2026.4, found by trying; tests compare them with
what the runtimes really do.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Dict, FrozenSet, List, Mapping, Optional, Set, Tuple

import numpy as np

from mmacs.deploy.packages import require
from mmacs.deploy.proof.wires import Wires

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

LAYERS = ('Conv', 'ConvTranspose', 'Gemm', 'MatMul')
FULL_PRECISION = 'its weight is kept in full precision'
FLOAT_INPUT = 'its input is not quantized'
PREDICTION = 'its output is a prediction, which stays float'
ADDITION = 'its output stays float before an addition'
CONCATENATION = 'its output stays float before a concatenation'
TWO_QUANTIZERS = 'several quantizers of different steps read its output'
SEVERAL_READERS = 'its output is read in floats as well as quantized'
PER_CHANNEL = 'the quantizer of its output has a range per channel'
PER_CHANNEL_INPUT = 'its input has a range per channel'
SIGNED_RELU = 'the quantizer after its ReLU has negative levels'
FOLDED_WEIGHT = 'its weight is stored in a form that this runtime turns into floats'
BETWEEN = 'its output stays float before {}'
INPUT_BETWEEN = 'its quantized input passes {} in floats'
NO_ZERO_POINT = 'its weight is dequantized without a zero point'
NO_KERNEL = 'this runtime has no such layer in integers'

_KEPT = ('MaxPool', 'Reshape', 'Squeeze', 'Transpose', 'Unsqueeze')  # ONNX Runtime moves quantizers through these
_KEPT_BEFORE = (*_KEPT, 'Slice')
_MOVED = ('Concat', 'Flatten', 'Identity', 'Pad', 'Resize', 'Split')  # OpenVINO through these too
_TABLES = ('Gather', 'GatherElements')  # which give weights whose levels are not evenly spaced
_SHOWN = {'Sigmoid': 'an activation function (Sigmoid)', 'Clip': 'an activation function (Clip)'}


@dataclass
class Layer:
    """A convolution, linear layer or matrix product of a file.

    Attributes:
        name (str): That of the layer in the model, with the call where there are several; else that of the node.
        node (str): Name of the node.
        quantized (bool): Whether its input and its weight (or other input) are stored or given in integers.
        reasons (Dict[str, str]): Why it is computed in floats, by runtime; runtimes that use integers are missing.
        aliases (FrozenSet[str]): Names that runtimes may call it by, which merge a bias into it.
    """

    name: str
    node: str
    quantized: bool
    reasons: Dict[str, str]
    aliases: FrozenSet[str]

    def is_among(self, names: Set[str]) -> bool:
        """Returns whether names that a runtime gives have this layer."""
        return not self.aliases.isdisjoint(names)


def layers_of(model: 'ModelProto') -> List[Layer]:
    """Returns the layers of a model in order, with what is to be expected of each runtime."""
    wires, ranks = Wires(model), _ranks(model)
    leads = _leading_to_quantizers(wires)
    found = []
    for node in wires.nodes:
        if node.op_type in LAYERS:
            both = _input_reason(wires, node), _weight_reason(wires, node)
            around = _own_kernel(node) or _before(wires, node) or _after(wires, node, leads, ranks)
            reasons = {
                'onnxruntime': both[0] or around,
                'openvino': both[0] or _own_kernel(node, grouped=True) or both[1],
            }
            quantized = FLOAT_INPUT not in both and FULL_PRECISION not in both
            kept = {runtime: reason for runtime, reason in reasons.items() if reason}
            found.append(Layer(layer_name(wires, node), node.name, quantized, kept, _aliases(wires, node)))
    return found


def summary(layers: List[Layer], runtime: str, counted: Optional[Set[str]] = None) -> Dict[str, object]:
    """Returns how many layers run in integers, and the others by reason.

    Args:
        layers (List[Layer]): Those of the file.
        runtime (str): Its name.
        counted (Set[str], optional): Names of nodes that the runtime really computes in integers; what is expected of
            it by default.
    """
    expected = {layer.node for layer in layers if runtime not in layer.reasons}
    integer = expected if counted is None else {layer.node for layer in layers if layer.is_among(counted)}
    others: Dict[str, List[str]] = {}
    for layer in layers:
        if layer.node not in integer:
            why = layer.reasons.get(runtime, 'the reason is not known')
            others.setdefault(why, []).append(layer.name)
    return {'layers': len(layers), 'integer': len(integer), 'expected': len(expected), 'float': others}


def _leading_to_quantizers(wires: Wires) -> Set[str]:
    """Values from which a QuantizeLinear can be reached."""
    found: Set[str] = set()
    for node in reversed(wires.nodes):
        if node.op_type == 'QuantizeLinear' or any(name in found for name in node.output):
            found.update(node.input)
    return found


def _source(wires: Wires, name: str, passed: tuple) -> Optional['NodeProto']:
    """The node that makes a value, behind those that only move values about."""
    node = wires.maker.get(name)
    while node is not None and node.op_type in passed:
        node = wires.maker.get(node.input[0])
    return node


def _input_reason(wires: Wires, node: 'NodeProto') -> Optional[str]:
    if _is_float_constant(wires, node.input[1]) and not _is_quantized(wires, node.input[0]):
        return FULL_PRECISION
    if not _is_quantized(wires, node.input[0]) or _is_float_result(wires, node.input[1]):
        return FLOAT_INPUT
    return None


def _is_quantized(wires: Wires, name: str) -> bool:
    source = _source(wires, name, (*_KEPT_BEFORE, *_MOVED))
    return source is not None and source.op_type == 'DequantizeLinear'


def _is_float_constant(wires: Wires, name: str) -> bool:
    source = _source(wires, name, _KEPT)
    if source is None:
        return name in wires.stored
    return source.op_type in ('Constant', *_TABLES)


def _is_float_result(wires: Wires, name: str) -> bool:
    """Whether a factor is computed in floats, as in the products of attention, and no weight."""
    kinds, _, source = _origin(wires, name)
    return source is not None and source.op_type not in ('Constant', *_TABLES) and 'DequantizeLinear' not in kinds


def _origin(wires: Wires, name: str) -> Tuple[List[str], str, Optional['NodeProto']]:
    """What makes floats of levels, last first, the name of the levels, and the node that makes these, if any does."""
    source, kinds = _source(wires, name, _KEPT), []
    if source is not None:
        name = source.output[0]
    while source is not None and source.op_type in ('Add', 'Cast', 'DequantizeLinear', 'Mul'):
        kinds.append(source.op_type)
        name = source.input[0]
        source = wires.maker.get(name)
    return kinds, name, source


def _weight_reason(wires: Wires, node: 'NodeProto') -> Optional[str]:
    """Why OpenVINO does not find integers in a weight."""
    first = _source(wires, node.input[1], _KEPT)
    if first is None or first.op_type == 'Constant':
        return FULL_PRECISION
    kinds, name, _ = _origin(wires, node.input[1])
    if name not in wires.stored or first.op_type not in ('DequantizeLinear', 'Mul'):
        return FOLDED_WEIGHT
    casts = kinds.count('Cast') + kinds.count('DequantizeLinear')
    if wires.stored[name].data_type in (require('onnx').TensorProto.INT8, require('onnx').TensorProto.UINT8):
        return None if casts == 1 else FOLDED_WEIGHT  # it computes with such integers only as they are stored
    return None if casts > 1 else FOLDED_WEIGHT


def _own_kernel(node: 'NodeProto', grouped: bool = False) -> Optional[str]:
    """Whether there is none for transposed convolutions, or none for those in groups."""
    groups = next((one.i for one in node.attribute if one.name == 'group'), 1)
    return NO_KERNEL if node.op_type == 'ConvTranspose' and (groups > 1 or not grouped) else None


def _before(wires: Wires, node: 'NodeProto') -> Optional[str]:
    """Why ONNX Runtime does not take the quantized input."""
    source = _source(wires, node.input[0], _KEPT_BEFORE)
    if source is None or source.op_type != 'DequantizeLinear':
        return INPUT_BETWEEN.format(source.op_type if source is not None else 'the graph')
    return PER_CHANNEL_INPUT if _ranges(wires, source) > 1 else None


def _after(wires: Wires, node: 'NodeProto', leads: Set[str], ranks: Mapping[str, int]) -> Optional[str]:
    """Why ONNX Runtime can't put the following quantizer into the layer."""
    if node.op_type == 'MatMul' and (ranks.get(node.input[0], 2) > 2 or _bias_of(wires, node) is None):
        return None  # it has a product of integers that gives floats; of matrices with a bias it makes a Gemm
    weight = _source(wires, node.input[1], _KEPT)
    if node.op_type in ('Gemm', 'MatMul') and weight is not None and len(weight.input) == 2:
        return NO_ZERO_POINT
    name, relu, first = node.output[0], False, True
    while True:
        if name not in leads:
            return PREDICTION
        readers = wires.readers.get(name, [])
        quantizers = _different(wires, [one for one in readers if one.op_type == 'QuantizeLinear'])
        others = [one for one in readers if one.op_type != 'QuantizeLinear']
        if name in wires.outputs or len(readers) > 1 and others:
            return _of_readers(others) if not quantizers else SEVERAL_READERS
        if len(quantizers) > 1:
            return TWO_QUANTIZERS
        if quantizers:
            quantize = quantizers[0]
            if _ranges(wires, quantize) > 1:
                return PER_CHANNEL
            return SIGNED_RELU if relu and _zero_point(wires, quantize) != _lowest(wires, quantize) else None
        (following,) = others
        if following.op_type == 'Relu' and first:
            relu = True
        elif following.op_type == 'Clip' and first and _covers(wires, following):
            pass
        elif following is _bias_of(wires, node):
            name, first = following.output[0], True
            continue
        elif following.op_type not in _KEPT:
            return _of_readers(others)
        name, first = following.output[0], False


def _of_readers(readers: List['NodeProto']) -> str:
    kinds = {one.op_type for one in readers}
    if 'Add' in kinds or 'Sum' in kinds:
        return ADDITION
    if 'Concat' in kinds:
        return CONCATENATION
    if {'Sigmoid', 'Mul'} <= kinds:
        return BETWEEN.format('an activation function (SiLU)')
    kind = sorted(kinds)[0] if kinds else 'the end of the graph'
    return BETWEEN.format(_SHOWN.get(kind, kind))


def _different(wires: Wires, quantizers: List['NodeProto']) -> List['NodeProto']:
    """Quantizers, but for those that are equal to another, which runtimes merge."""
    kept: Dict[tuple, NodeProto] = {}
    for one in quantizers:
        values = tuple(None if (value := wires.value(name)) is None else value.tobytes() for name in one.input[1:])
        kept.setdefault(values if None not in values else (one.name,), one)
    return list(kept.values())


def _ranges(wires: Wires, node: 'NodeProto') -> int:
    scale = wires.value(node.input[1])
    return 1 if scale is None else scale.size


def _zero_point(wires: Wires, quantize: 'NodeProto') -> int:
    value = wires.value(quantize.input[2]) if len(quantize.input) > 2 else None
    return 0 if value is None else int(value.flat[0])


def _lowest(wires: Wires, quantize: 'NodeProto') -> int:
    value = wires.value(quantize.input[2]) if len(quantize.input) > 2 else None
    return 0 if value is None else int(np.iinfo(value.dtype).min)


def _covers(wires: Wires, clip: 'NodeProto') -> bool:
    """Whether a Clip takes nothing from what the one quantizer behind it can hold."""
    (quantize, *more) = wires.readers.get(clip.output[0], [None])
    bounds = [wires.value(name) for name in clip.input[1:]]
    if more or quantize is None or quantize.op_type != 'QuantizeLinear' or len(bounds) < 2 or None in map(type, bounds):
        return False
    step, zero = wires.value(quantize.input[1]), _zero_point(wires, quantize)
    if step is None or any(bound is None for bound in bounds):
        return False
    lowest = (_lowest(wires, quantize) - zero) * float(step.flat[0])
    return float(bounds[0]) <= lowest and float(bounds[1]) >= lowest + 255 * float(step.flat[0])


def _bias_of(wires: Wires, node: 'NodeProto') -> Optional['NodeProto']:
    """The Add that puts a bias onto a matrix product."""
    readers = wires.readers.get(node.output[0], [])
    if node.op_type != 'MatMul' or len(readers) != 1 or readers[0].op_type != 'Add':
        return None
    is_bias = any(name in wires.stored and len(wires.stored[name].dims) == 1 for name in readers[0].input)
    return readers[0] if is_bias else None


def _aliases(wires: Wires, node: 'NodeProto') -> FrozenSet[str]:
    """Names of the node, and of those that follow it alone and that a runtime may merge into it."""
    found = {node.name}
    while node.op_type != 'QuantizeLinear':
        found.update((node.name, node.output[0], f'{node.output[0]}_original'))  # OpenVINO's name before an output
        readers = wires.readers.get(node.output[0], [])
        if len(readers) != 1 or readers[0].op_type in LAYERS or sum(one in wires.maker for one in readers[0].input) > 1:
            break
        (node,) = readers
    return frozenset(found)


def _ranks(model: 'ModelProto') -> Dict[str, int]:
    """Number of axes of each value, where it is known."""
    graph = require('onnx').shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.output, *graph.value_info)
    return {one.name: len(one.type.tensor_type.shape.dim) for one in values if one.type.tensor_type.HasField('shape')}


def layer_name(wires: Wires, node: 'NodeProto') -> str:
    """Returns the layer's name in the model, from that of its input's quantizer; else the node's."""
    source = _source(wires, node.input[0], (*_KEPT_BEFORE, *_MOVED))
    if source is not None and source.op_type == 'DequantizeLinear' and '#' in source.input[0]:
        quantizer, _, call = source.input[0].rpartition('#')
        layer = quantizer.rpartition('.')[0] or quantizer
        return f'{layer} (call {call})' if call != '0' else layer
    return node.name
