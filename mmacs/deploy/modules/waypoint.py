"""Tensors from which a proof has two computations go on alike."""

from contextlib import contextmanager
from typing import Dict, Iterator, Optional

import torch
from torch import Tensor, nn

from mmacs.deploy.tracing import is_exporting

WAYPOINT = 'mmacs::Waypoint'  # see mmacs.deploy.graph
PREFIX = 'waypoint/'  # of their names in files


class Waypoint(nn.Module):
    """Passes on a float32 tensor, which has a name in files.

    What follows depends on it by leaps: where two proposals of a detector have almost the same score, a difference in
    the last bit swaps them, and with them all that is computed of each.

    Args:
        name (str): What the tensor is.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = PREFIX + name
        self.known: Optional[Dict[str, Tensor]] = None

    def forward(self, x: Tensor) -> Tensor:
        """Returns the tensor, or what is known in its place."""
        if is_exporting():
            return torch.onnx.ops.symbolic(
                WAYPOINT, (x,), {'name': self.name}, dtype=torch.float32, shape=x.shape, version=1
            )
        return x if self.known is None else self.known.setdefault(self.name, x)


@contextmanager
def at_waypoints(module: nn.Module, known: Dict[str, Tensor]) -> Iterator[None]:
    """Have the waypoints within a module pass on what is known, and write down what is not; for one forward.

    Args:
        module (nn.Module): What is run in the body.
        known (Dict[str, Tensor]): Tensors by the names of their waypoints; it is added to.
    """
    waypoints = [each for each in module.modules() if isinstance(each, Waypoint)]
    for each in waypoints:
        each.known = known
    try:
        yield
    finally:
        for each in waypoints:
            each.known = None
