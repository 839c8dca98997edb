"""What the ranges of a quantizer are, in buffers that are read where they change."""

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn

from mmacs.quantization.fake_quant import reads_are_free

UNSIGNED, SYMMETRIC, ASYMMETRIC = range(3)  # where a grid has its zero: at its end, in its centre, or in between


class Flags(NamedTuple):
    """What a range is, as Python values.

    ``zero`` is :data:`UNSIGNED`, :data:`SYMMETRIC` or :data:`ASYMMETRIC`; ``zero_point`` counts the levels below zero
    of an asymmetric grid.
    """

    initialized: bool
    zero: int
    zero_point: int = 0


class RangeFlags(nn.Module):
    """Keeps which ranges there are, and where their grids have their zero.

    They are the uint8 buffers ``initialized``, ``signed`` (:data:`UNSIGNED`, :data:`SYMMETRIC` or :data:`ASYMMETRIC`)
    and, where there are asymmetric grids, ``zero_point``.

    Args:
        num_levels (int): Number of calls per forward that have a range of their own.
        signed (bool): Whether ranges have negative levels until data decides.
    """

    def __init__(self, num_levels: int, signed: bool) -> None:
        super().__init__()
        self.register_buffer('initialized', torch.zeros(num_levels, dtype=torch.uint8))
        self.register_buffer('signed', torch.full((num_levels,), signed, dtype=torch.uint8))
        self._flags_cache: Optional[List[Flags]] = None
        self._flags_versions: Tuple[int, ...] = ()

    def zero(self, level: int = 0) -> int:
        """Returns where a level's grid has its zero: :data:`UNSIGNED`, :data:`SYMMETRIC` or :data:`ASYMMETRIC`."""
        return self._flags()[level].zero

    def zero_point_of(self, level: int = 0) -> int:
        """Returns the number of levels below zero of an asymmetric grid."""
        return self._flags()[level].zero_point

    def level_is_signed(self, level: int = 0) -> bool:
        """Returns whether the quantizer has negative levels at a pyramid level."""
        return self.zero(level) != UNSIGNED

    def is_initialized(self) -> bool:
        """Returns whether at least one level has its range (a level that is never called never gets one)."""
        return any(flags.initialized for flags in self._flags())

    def _flags(self) -> List[Flags]:
        """What the ranges are, per level.

        Reading a buffer stalls a GPU and breaks a compiled graph, so they are read where they change: after
        calibration, loading, a move to another device or dtype, and, since ``tensor.data`` writes leave no trace, a
        switch of the mode. On a CPU, outside compiled graphs, other writes in place, as ``buffer.copy_`` is, are seen
        at once; elsewhere whoever writes so calls :meth:`read_flags`.
        """
        if self._flags_cache is None:
            return self.read_flags()
        written = reads_are_free(self.initialized) and self._flags_versions != self._versions_of_flags()
        return self.read_flags() if written else self._flags_cache

    def _versions_of_flags(self) -> Tuple[int, ...]:
        """Returns torch's counts of writes to the buffers behind the flags; those of inference mode have none."""
        return tuple(flags._version for flags in self._flag_buffers() if not flags.is_inference())

    def _flag_buffers(self) -> List[Tensor]:
        zero_point = getattr(self, 'zero_point', None)
        return [self.initialized, self.signed, *([] if zero_point is None else [zero_point])]

    def forget_range(self) -> None:
        """Forgets that there is a range, so that it is calibrated anew."""
        self.initialized.zero_()
        self.read_flags()

    @torch.compiler.disable
    def read_flags(self) -> List[Flags]:
        """Look at ``initialized``, ``signed`` and ``zero_point`` anew: after they were written to from outside."""
        flags = [Flags(bool(values[0]), *values[1:]) for values in torch.stack(self._flag_buffers(), 1).tolist()]
        # What a copy without ranges is given later may leave no trace
        has_range = any(each.initialized for each in flags)
        self._flags_cache = flags if has_range else None
        self._flags_versions = self._versions_of_flags()
        return flags

    def train(self, mode: bool = True) -> 'RangeFlags':
        """Switch the mode; flags are read."""
        self._read_flags_anew()
        return super().train(mode)

    def __setstate__(self, state: Dict[str, Any]) -> None:
        super().__setstate__(state)
        self._read_flags_anew()  # the buffers of a copy count writes from zero

    def _read_flags_anew(self) -> None:
        self._flags_cache = None
        if not self.initialized.is_meta:
            self.read_flags()  # now, so that a compiled forward finds them
