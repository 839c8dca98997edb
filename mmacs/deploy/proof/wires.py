"""Who makes and who reads each value of an ONNX graph."""

import math
import re
from typing import TYPE_CHECKING, Dict, List, Optional

import numpy as np

from mmacs.deploy.packages import require

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

_INTEGERS = re.compile(r'.+#\d+')  # <quantizer>#<call>


class Wires:
    """A graph that can be walked forwards and backwards.

    Args:
        model (ModelProto): The model.

    Attributes:
        nodes (list): The nodes in order.
        maker (Dict[str, NodeProto]): The node that makes each value.
        readers (Dict[str, list]): The nodes that read each value.
        stored (Dict[str, TensorProto]): The initializers by name.
        outputs (set): Names of the graph's outputs.
    """

    def __init__(self, model: 'ModelProto') -> None:
        self.nodes: List[NodeProto] = list(model.graph.node)
        self.maker: Dict[str, NodeProto] = {name: node for node in self.nodes for name in node.output}
        self.readers: Dict[str, List[NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self.readers.setdefault(name, []).append(node)
        self.stored: Dict[str, TensorProto] = {one.name: one for one in model.graph.initializer}
        self.outputs = {one.name for one in model.graph.output}

    def value(self, name: str) -> Optional[np.ndarray]:
        """Returns a stored value, or one that a Constant node holds; None for what is computed."""
        helper = require('onnx').numpy_helper
        if name in self.stored:
            return helper.to_array(self.stored[name])
        maker = self.maker.get(name)
        if maker is not None and maker.op_type == 'Constant':
            return next(helper.to_array(one.t) for one in maker.attribute if one.name == 'value')
        return None

    def stored_before(self, name: str) -> Optional['TensorProto']:
        """Returns the largest initializer that a value is computed from, if it is computed from such alone."""
        found, waiting, seen = [], [name], set()
        while waiting:
            one = waiting.pop()
            if one in seen or not one:
                continue
            seen.add(one)
            if one in self.stored:
                found.append(self.stored[one])
            elif one not in self.maker:
                return None  # an input of the graph
            else:
                maker = self.maker[one]  # of what is looked up in a table, the places are what is stored of a weight
                waiting.extend(maker.input[1:] if maker.op_type == 'GatherElements' else maker.input)
        return max(found, key=lambda tensor: math.prod(tensor.dims), default=None)

    def integers(self) -> Dict[str, 'NodeProto']:
        """Returns the values that hold quantized activations, ``<quantizer>#<call>``, with the node that rounds each.

        That is a QuantizeLinear, before a Clip to fewer than 8 bits and a MaxPool where there are such, or QONNX's
        Quant.
        """
        found = {}
        for node in self.nodes:
            name, start = node.output[0] if node.output else '', node
            while start is not None and start.op_type in ('Clip', 'MaxPool'):
                start = self.maker.get(start.input[0])
            if _INTEGERS.fullmatch(name) and start is not None and start.op_type in ('QuantizeLinear', 'Quant'):
                found[name] = start
        return found
