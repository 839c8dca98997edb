"""What the weights of a file are stored as."""

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Dict, Iterable, List

from mmacs.deploy.packages import require
from mmacs.deploy.proof.integer_layers import LAYERS, layer_name
from mmacs.deploy.proof.wires import Wires

if TYPE_CHECKING:
    from onnx import ModelProto

_FLOATS = ('FLOAT', 'FLOAT16', 'BFLOAT16', 'DOUBLE')


@dataclass
class Weight:
    """A stored weight.

    Attributes:
        layers (List[str]): Names of the layers that use it.
        kind (str): Its data type in ONNX, such as ``'INT4'``.
        values (int): Number of values.
        bytes (int): Bytes in the file.
    """

    layers: List[str]
    kind: str
    values: int
    bytes: int


def weights_of(model: 'ModelProto') -> List[Weight]:
    """Returns the weights of convolutions, linear layers and matrix products, each once."""
    onnx = require('onnx')
    wires, found = Wires(model), {}
    for node in wires.nodes:
        if node.op_type not in LAYERS:
            continue
        for name in node.input[:2]:
            stored = wires.stored_before(name)
            if stored is None:
                continue
            if stored.name not in found:
                kind = onnx.TensorProto.DataType.Name(stored.data_type)
                size = len(stored.raw_data) or stored.ByteSize()
                found[stored.name] = Weight([], kind, prod(stored.dims), size)
            layer = layer_name(wires, node).partition(' (')[0]
            if layer not in found[stored.name].layers:
                found[stored.name].layers.append(layer)
    return list(found.values())


def summary(weights: List[Weight]) -> Dict[str, Dict[str, int]]:
    """Returns number of weights, values and bytes by data type."""
    found: Dict[str, Dict[str, int]] = {}
    for weight in weights:
        row = found.setdefault(weight.kind, {'weights': 0, 'values': 0, 'bytes': 0})
        row['weights'] += 1
        row['values'] += weight.values
        row['bytes'] += weight.bytes
    return found


def floats_in_place_of_integers(weights: List[Weight], quantized: Iterable[str]) -> List[str]:
    """Returns the layers whose weight has a quantizer, and is stored in floats.

    Args:
        weights (List[Weight]): The weights of a file.
        quantized (Iterable[str]): Names of the layers whose weight has a quantizer.
    """
    names = set(quantized)
    return sorted({one for weight in weights if weight.kind in _FLOATS for one in weight.layers if one in names})
