"""The levels of a quantizer, and the numbers that it takes."""

from typing import NamedTuple, Optional

from torch import Tensor

from mmacs.utils.checks import is_number, is_whole
from mmacs.utils.errors import MmacsError

MAX_BITS = 16


def check_bits(bits: object) -> None:
    """Raise an :class:`MmacsError` unless ``bits`` is an integer from 1 to 16."""
    if not is_whole(bits) or not 1 <= bits <= MAX_BITS:
        raise MmacsError(f'bits must be an integer from 1 to {MAX_BITS}, or 32 for full precision, got {bits!r}')


def check_momentum(momentum: object) -> None:
    """Raise an :class:`MmacsError` unless this is the share of a new batch in a range that follows the data."""
    if not is_number(momentum) or not 0 < momentum <= 1:
        raise MmacsError(f'momentum, the share of a new batch, must be above 0 and at most 1, got {momentum!r}')


class Grid(NamedTuple):
    """The values that a uniform quantizer maps to: ``step * k + offset`` for integers k in [q_min, q_max].

    ``step`` and ``offset`` are float32 tensors of shape (1,) or (number of channels,), through which gradients reach
    what the quantizer learns; ``offset`` is None where it is zero.
    """

    step: Tensor
    offset: Optional[Tensor]
    q_min: int
    q_max: int
