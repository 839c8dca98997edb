"""Weights as integers."""

from typing import Any, Callable, Dict, Sequence, Union

import torch
from torch import Tensor, nn

from mmacs.deploy.integers import Codebook, IntegerWeight
from mmacs.deploy.tracing import is_exporting

WEIGHT = 'mmacs::Weight'  # see mmacs.deploy.graph
TABLE = 'mmacs::Table'


def narrowed(values: Tensor) -> Tensor:
    """Returns a tensor of the same number of axes that broadcasts to the same values, as small as can be."""
    for axis in range(values.dim()):
        first = values.narrow(axis, 0, 1)
        if bool((values == first).all()):
            values = first
    return values.contiguous()


class _Levels(nn.Module):
    """The integers of a layer's weight, and what makes values of them: once, or for each level of the pyramid."""

    def __init__(self, weights: Sequence[Union[IntegerWeight, Codebook]], shape: torch.Size, name: str) -> None:
        super().__init__()
        self.name = name
        self.bits = weights[0].bits
        self.num_levels = len(weights)
        self.shape = shape

    def _part(self, key: str, level: int) -> Tensor:
        return getattr(self, f'{key}_{level if self.num_levels > 1 else 0}')

    def _attributes(self) -> Dict[str, Any]:
        """Attributes of the node of a file."""
        return {'name': self.name, 'bits': self.bits}

    def extra_repr(self) -> str:
        """Returns the bit-width and the shape, for ``print(model)``."""
        return f'bits={self.bits}, shape={tuple(self.shape)}'


class Weight(_Levels):
    """A layer's weight, ``scale * (multiplier * levels + shift)``; levels of the pyramid share all but the scale.

    Args:
        weights (Sequence[IntegerWeight]): One, or one per level of the pyramid, with the same ``levels``.
        restore_layout (Callable): From output channels first to the layout that the layer's arithmetic wants.
        name (str): Name of the quantizer.
    """

    def __init__(self, weights: Sequence[IntegerWeight], restore_layout: Callable[[Tensor], Tensor], name: str) -> None:
        levels = restore_layout(weights[0].levels).contiguous()
        super().__init__(weights, levels.shape, name)
        self.register_buffer('levels', levels)
        for number, weight in enumerate(weights):
            for key in ('multiplier', 'shift', 'scale'):
                column = getattr(weight, key).view(-1, *[1] * (self.levels.dim() - 1))
                spread = restore_layout(column.expand(weight.levels.shape))
                self.register_buffer(f'{key}_{number}', narrowed(spread))

    def codes(self, level: int) -> Tensor:
        """Returns the integers, float32, in the layer's layout."""
        return self.levels.float() * self._part('multiplier', level) + self._part('shift', level)

    def forward(self, level: int) -> Tensor:
        """Returns the weight, float32, in the layer's layout."""
        if not is_exporting():
            return self.codes(level) * self._part('scale', level)
        parts = tuple(self._part(key, level) for key in ('multiplier', 'shift', 'scale'))
        return torch.onnx.ops.symbolic(
            WEIGHT, (self.levels, *parts), self._attributes(), dtype=torch.float32, shape=self.shape, version=1
        )


class TableWeight(_Levels):
    """A layer's weight whose levels are not evenly spaced; levels of the pyramid share all but the table.

    Args:
        weights (Sequence[Codebook]): One, or one per level of the pyramid, with the same ``levels``.
        restore_layout (Callable): From output channels first to the layout that the layer's arithmetic wants.
        name (str): Name of the quantizer.
    """

    def __init__(self, weights: Sequence[Codebook], restore_layout: Callable[[Tensor], Tensor], name: str) -> None:
        super().__init__(weights, weights[0].levels.shape, name)
        self.restore_layout = restore_layout
        self.register_buffer('levels', weights[0].levels.flatten(1))
        for number, weight in enumerate(weights):
            self.register_buffer(f'table_{number}', weight.table)

    def forward(self, level: int) -> Tensor:
        """Returns the weight, float32, in the layer's layout."""
        table = self._part('table', level)
        if is_exporting():
            inputs, shape = (table, self.levels), self.levels.shape
            rows = torch.onnx.ops.symbolic(
                TABLE, inputs, self._attributes(), dtype=torch.float32, shape=shape, version=1
            )
        else:
            rows = table.gather(1, self.levels.long())
        return self.restore_layout(rows.view(self.shape))
