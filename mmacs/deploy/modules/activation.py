"""Quantization of activations, as the nodes QuantizeLinear, Clip and DequantizeLinear compute it."""

from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from mmacs.deploy.integers import ActivationGrid
from mmacs.deploy.modules.calls import Counted, begin_forward
from mmacs.deploy.tracing import is_exporting
from mmacs.quantization.quantizers.kept import Kept
from mmacs.utils.errors import MmacsError

QUANTIZE = 'mmacs::Quantize'  # see mmacs.deploy.graph


class Turn(NamedTuple):
    """One call of a quantizer."""

    call: int  # number of tensors before it in this forward
    level: int  # of the feature pyramid, if it has a step for each
    own: int  # number of the call among those that the layer tells apart


class Quantize(Counted):
    """Rounds an activation to ``step * k``; each call gives a tensor of 8-bit integers, see :func:`recorded_integers`.

    Args:
        name (str): Name of the quantizer.
        grids (Sequence[ActivationGrid or None]): One, or one per pyramid level; None for a level without a range.
        signed_storage (bool): Whether integers are stored as int8 with zero at 0, and not as uint8 with any zero.
        shared (bool): Whether several read what it makes of a tensor, which is then one tensor of integers.
    """

    def __init__(
        self,
        name: str,
        grids: Sequence[Optional[ActivationGrid]],
        signed_storage: bool = False,
        shared: bool = False,
    ) -> None:
        super().__init__()
        self.name = name
        self.shared = shared
        self.turns: Dict[int, Tuple[Turn, Kept]] = {}  # the last of each level, and its tensor
        self.bounds: List[Optional[Tuple[int, int]]] = [None if grid is None else grid[1:] for grid in grids]
        self.signed_storage = signed_storage
        self.recorded: Optional[Dict[str, Tensor]] = None
        self.fed: Mapping[str, Tensor] = {}
        for level, grid in enumerate(grids):
            step = torch.ones(1) if grid is None else grid.step
            self.register_buffer(f'step_{level}', step.reshape(()) if step.numel() == 1 else step)

    @property
    def num_levels(self) -> int:
        """Number of pyramid levels with a step of their own, or 1."""
        return len(self.bounds)

    @property
    def is_per_channel(self) -> bool:
        """Whether channels have steps of their own."""
        return self.step_0.dim() > 0

    def step(self, level: int, x: Tensor) -> Tensor:
        """Returns the step of a level as it broadcasts against a tensor, channels second."""
        step = getattr(self, f'step_{level}')
        return step.view(-1, *[1] * (x.dim() - 2)) if step.dim() else step

    def zero_point(self, level: int) -> int:
        """Returns the stored integer that stands for zero."""
        low, high = self.bounds[level]
        if self.signed_storage or low >= 0:
            return 0
        return 128 if low >= -128 and high <= 127 else -low

    def is_stored(self, level: int) -> bool:
        """Returns whether its integers fit their storage; else files round in floats."""
        low, high = self.bounds[level]
        return not self.signed_storage or (low >= -128 and high <= 127)

    def forward(self, x: Tensor, turn: Optional[Turn] = None) -> Tensor:
        """Round a float32 tensor of any shape, channels second; ``turn`` is given by who asked for it already."""
        turn = turn or self.turn_of(x)
        if x.numel() == 0:
            return x
        kept = self.turns[turn.level][1] if self.shared else None
        if kept is not None and kept.y is not None:
            return kept.y
        y = self._node(x, turn) if is_exporting() else self.integers(x, turn) * self.step(turn.level, x)
        if kept is not None:
            self.turns[turn.level] = turn, Kept(x, y, 0)
        return y

    def turn_of(self, x: Tensor) -> Turn:
        """Returns the turn of a tensor: the next one, or the one that it had when another read it.

        Raises:
            MmacsError: If the level has no range, or all levels had their turn.
        """
        if self.shared:
            return self.turn_at_level(x, self.next_call() if self.num_levels > 1 else 0)
        call = self.next_call()
        level = call if self.num_levels > 1 else 0
        self._require(level)
        return Turn(call, level, level)

    def turn_at_level(self, x: Tensor, level: int) -> Turn:
        """Returns the turn of a tensor that several read, which is for a level; see :meth:`turn_of`."""
        self._require(level)
        if level not in self.turns or not self.turns[level][1].is_of(x):
            call = level if self.num_levels > 1 else self.next_call()
            self.turns[level] = Turn(call, level, level), Kept(x, None, 0)
        return self.turns[level][0]

    def _require(self, level: int) -> None:
        if level >= self.num_levels:
            raise MmacsError(
                f'{self.name} was called more than {self.num_levels} times in one forward, but it has one range per '
                f'pyramid level: set per_level=False, or the number of calls, for this layer in the recipe'
            )
        if self.bounds[level] is None:
            raise MmacsError(
                f'{self.name} was never calibrated: call mmacs.quantization.calibrate(model, batches), '
                f'add the hook mmacs.QuantizationHook, or load a checkpoint of a quantized model'
            )

    def steps(self) -> Tensor:
        """Returns the steps, shape (levels,) or, with one for each channel, (levels, channels)."""
        return torch.stack([getattr(self, f'step_{level}') for level in range(self.num_levels)])

    def integers(self, x: Tensor, turn: Turn) -> Tensor:
        """Returns the integers k as float32, and writes down what files hold of them, if that is asked for."""
        integers = (x / self.step(turn.level, x)).round_().clamp_(*self.bounds[turn.level])
        if self.recorded is not None and self.is_stored(turn.level):
            dtype = torch.int8 if self.signed_storage else torch.uint8
            name, zero_point = f'{self.name}#{turn.call}', self.zero_point(turn.level)
            self.recorded[name] = (integers + zero_point).to(dtype)
            if name in self.fed:
                return self.fed[name].float() - zero_point
        return integers

    def _node(self, x: Tensor, turn: Turn) -> Tensor:
        low, high = self.bounds[turn.level]
        attributes = {
            'name': f'{self.name}#{turn.call}',
            'low': low,
            'high': high,
            'zero_point': self.zero_point(turn.level),
            'signed_storage': int(self.signed_storage),
            'is_stored': int(self.is_stored(turn.level)),
        }
        step = getattr(self, f'step_{turn.level}')
        return torch.onnx.ops.symbolic(QUANTIZE, (x, step), attributes, dtype=torch.float32, shape=x.shape, version=1)

    def extra_repr(self) -> str:
        """Returns the levels, for ``print(model)``."""
        return ', '.join(dict.fromkeys('-' if each is None else f'{each[0]}..{each[1]}' for each in self.bounds))


class SharedQuantize(Counted):
    """Stands in a layer for a quantizer that another one has.

    Args:
        source (Quantize): The quantizer, no child of this module.
        levels (Sequence[int]): For each call of this layer, the level of ``source``.
    """

    is_per_channel = False

    def __init__(self, source: Quantize, levels: Sequence[int]) -> None:
        super().__init__()
        self.__dict__['source'] = source
        self.levels = tuple(levels)

    @property
    def num_levels(self) -> int:
        """Number of calls that are told apart."""
        return len(self.levels)

    def turn_of(self, x: Tensor) -> Turn:
        """See :meth:`Quantize.turn_of`."""
        own = self.next_call() if self.num_levels > 1 else 0
        level = self.levels[own] if own < self.num_levels else self.source.num_levels  # which it refuses
        return self.source.turn_at_level(x, level)._replace(own=own)

    def forward(self, x: Tensor, turn: Optional[Turn] = None) -> Tensor:
        """See :meth:`Quantize.forward`."""
        return self.source(x, turn or self.turn_of(x))

    def integers(self, x: Tensor, turn: Turn) -> Tensor:
        """See :meth:`Quantize.integers`."""
        return self.source.integers(x, turn)

    def step(self, level: int, x: Tensor) -> Tensor:
        """See :meth:`Quantize.step`; ``level`` is that of a turn."""
        return self.source.step(level, x)

    def steps(self) -> Tensor:
        """Returns the step of each call, shape (levels,)."""
        return self.source.steps()[list(self.levels)]


def forget_tensors(model: nn.Module, args: Any = ()) -> None:
    """Have the quantizers inside of a model hold no tensors any more; it serves as a forward pre-hook, too."""
    for module in model.modules():
        if isinstance(module, Quantize):
            module.turns.clear()


@contextmanager
def recorded_integers(model: nn.Module, fed: Optional[Mapping[str, Tensor]] = None) -> Iterator[Dict[str, Tensor]]:
    """Have the quantizers of a reference write down their integers; one forward is made in the body.

    Args:
        model (nn.Module): What :func:`~..reference.reference_model` made, or holds such a model.
        fed (Mapping[str, Tensor], optional): Integers, as they are yielded, that the layers get in the place of those
            that are written down; so differences don't add up from layer to layer.

    Yields:
        Dict[str, Tensor]: By ``<name of the quantizer>#<number of the call>``, uint8 or int8, as files hold them.
    """
    found: Dict[str, Tensor] = {}
    modules = [module for module in model.modules() if isinstance(module, Quantize)]
    begin_forward(model)
    forget_tensors(model)
    for module in modules:
        module.recorded, module.fed = found, fed or {}
    try:
        yield found
    finally:
        for module in modules:
            module.recorded, module.fed = None, {}
        forget_tensors(model)
