"""What a checkpoint must hold for a quantizer."""

from typing import Mapping, Optional

from torch import Tensor

from mmacs.quantization.quantizers.flags import ASYMMETRIC
from mmacs.utils.errors import MmacsError

State = Mapping[str, Tensor]


def before_0_2(own: State, given: State) -> bool:
    """Returns whether a state was written before there were asymmetric grids, and so has no ``zero_point``."""
    return own.keys() - given.keys() == {'zero_point'} and given.get('signed', own['signed']).max() < ASYMMETRIC


def require_own_state(name: str, kind: str, own: State, given: State) -> None:
    """Require that a state is of the same quantizer, bit-width and granularity.

    Args:
        name (str): Of the quantizer.
        kind (str): Its class.
        own (Mapping[str, Tensor]): Its state; at several bit-widths, that of each.
        given (Mapping[str, Tensor]): That of the checkpoint.

    Raises:
        MmacsError: If it is not, or is damaged.
    """
    advice = 'use the recipe that the checkpoint was trained with, or start from a full-precision checkpoint'
    if given.keys() != own.keys():
        raise MmacsError(
            f'{name} is a {kind} with the state {", ".join(sorted(own))}, but the checkpoint has '
            f'{", ".join(sorted(given))}: {advice}'
        )
    widths = {key.removesuffix('step_bits'): int(value) for key, value in own.items() if key.endswith('step_bits')}
    for place, bits in widths.items():
        found = given[f'{place}step_bits'].flatten().tolist()
        if found != [bits]:
            raise MmacsError(
                f'{name} has {bits} bits, but the checkpoint has step sizes for '
                f'{", ".join(map(str, found)) or "none"}: {advice}'
            )
    for key, value in own.items():
        if given[key].shape != value.shape:
            raise MmacsError(
                f'{name} has {key} of shape {tuple(value.shape)}, but the checkpoint has {tuple(given[key].shape)}: '
                f'{advice}'
            )
    for place, bits in widths.items():
        if int(given[f'{place}signed'].max()) > ASYMMETRIC or _is_outside(given.get(f'{place}zero_point'), bits):
            raise MmacsError(f'{name} has a damaged state: its zero lies outside its levels')


def _is_outside(zero_point: Optional[Tensor], bits: int) -> bool:
    return zero_point is not None and bool(((zero_point < 0) | (zero_point >= 2**bits)).any())
