"""Quantized activations as a file holds them: as integers or, in QONNX, as multiples of their step."""

from typing import TYPE_CHECKING, Dict, Mapping

import numpy as np
from torch import nn

from mmacs.deploy.modules.activation import Quantize
from mmacs.deploy.proof.wires import Wires

if TYPE_CHECKING:
    from onnx import ModelProto


class HeldActivations:
    """Translates between the reference's integers and what a file holds.

    Args:
        model (ModelProto): The file's content.
        reference (nn.Module): What it was written from.
    """

    def __init__(self, model: 'ModelProto', reference: nn.Module) -> None:
        wires = Wires(model)
        quants = {name: node for name, node in wires.integers().items() if node.op_type == 'Quant'}
        self._steps = {name: wires.value(node.input[1]) for name, node in quants.items()}
        self._zero_points = {
            f'{one.name}#{level}': one.zero_point(level) if bounds else 0
            for one in reference.modules()
            if isinstance(one, Quantize)
            for level, bounds in enumerate(one.bounds)
        }

    def to_file(self, integers: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Returns integers, by ``<quantizer>#<call>``, as the file holds them."""
        found = dict(integers)
        for name in self._steps.keys() & found.keys():
            found[name] = (found[name].astype(np.float32) - self._zero_point(name)) * self._steps[name]
        return found

    def from_file(self, values: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Returns the integers of what the file holds."""
        found = dict(values)
        for name in self._steps.keys() & found.keys():
            found[name] = np.rint(found[name] / self._steps[name]).astype(np.int32) + self._zero_point(name)
        return found

    def _zero_point(self, name: str) -> int:
        return self._zero_points.get(name, self._zero_points[f'{name.rpartition("#")[0]}#0'])
