"""DoReFa (Zhou et al. 2016, arXiv 1606.06160)."""

from typing import Any, Optional

import torch
from torch import Tensor

from mmacs.quantization.fake_quant import clip_and_round, fill_zeros, per_element, round_to_levels
from mmacs.quantization.quantizers.base import Grid, Quantizer
from mmacs.utils.checks import require_switch
from mmacs.utils.errors import MmacsError
from mmacs.utils.registry import QUANTIZERS


@QUANTIZERS.register_module()
class DoReFa(Quantizer):
    """Weights squashed by tanh, activations clipped to [0, 1], nothing learned.

    Weights (equation 9): ``2 round(t n) / n - 1`` with ``t = tanh(w) / (2 max|tanh(w)|) + 1/2`` and
    ``n = 2^bits - 1``; one bit is ``sign(w) E|w|`` (equation 7). Activations (equation 11):
    ``round(n clip(x, 0, 1)) / n``.

    The paper trains from scratch with batch normalisation behind every layer, where the scale of weights is
    immaterial. A full-precision checkpoint needs its scales: ``rescale`` multiplies the unit range by a constant set
    at calibration, for weights such that E|w| stays, for activations three times the root mean square.

    Args:
        rescale (bool): Whether the range is that of the calibration data. False is the paper's. Defaults to True.
        **kwargs: See :class:`~.base.Quantizer`.
    """

    recomputable = True

    def __init__(self, rescale: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require_switch('rescale', rescale)
        self.rescale = rescale
        self.register_buffer('unit', torch.ones(self.num_ranges))

    def statistic(self, x: Tensor) -> Tensor:
        """Returns what ``unit`` is to be, shape (number of channels,)."""
        rows = self.memory_rows_of(x)
        if self._is_sign():
            return rows.abs().mean(1)
        if self.kind == 'activation':
            return 3 * rows.square().mean(1).sqrt()
        squashed = self._squash(rows, len(rows)).abs().mean(1)
        return rows.abs().mean(1) / squashed.clamp_min(torch.finfo(torch.float32).tiny)

    def set_range(self, statistic: Tensor, level: int, q_min: int, q_max: int) -> None:
        """Keep the unit range, or take that of the data."""
        self.at(self.unit, level).copy_(
            fill_zeros(statistic) if self.rescale or self._is_sign() else torch.ones_like(statistic)
        )

    def refresh(self, x: Tensor, level: int) -> None:
        """One-bit weights are multiplied by their mean magnitude."""
        if self._is_sign():
            self.unit.copy_(fill_zeros(self.memory_rows_of(x).abs().mean(1)))

    def bounds(self, level: int = 0) -> tuple:
        """Weights have 2^bits levels on both sides of zero, none of them zero."""
        return (0, 2**self.bits - 1) if self.kind == 'weight' else super().bounds(level)

    def grid_step(self, level: int, q_min: int, q_max: int) -> Tensor:
        """``2 unit / n`` for weights, ``unit / n`` for activations."""
        return self.at(self.unit, level) * (2 if self.kind == 'weight' else 1) / q_max

    def grid_offset(self, level: int, step: Tensor, q_max: int) -> Optional[Tensor]:
        """Weights lie in [-unit, unit]."""
        return -step * q_max / 2 if self.kind == 'weight' else super().grid_offset(level, step, q_max)

    def quantize(self, x: Tensor, grid: Grid) -> Tensor:
        """Squash weights, then map to the grid."""
        if self.kind == 'weight' and not self._is_sign():
            x = self._squash(x, self.num_channels) * per_element(self.unit, x)
        return super().quantize(x, grid)

    def fake_quantize(self, x: Tensor, step: Tensor, q_min: int, q_max: int) -> Tensor:
        """Clip, then round with a straight-through gradient; the sign of a weight passes all gradients."""
        if self._is_sign():
            return round_to_levels(x.detach(), step, q_min, q_max) + (x - x.detach())
        return clip_and_round(x, step, q_min, q_max)

    def change_bits(self, bits: int) -> None:
        """Go over to another bit-width; to or from the one bit of a weight, whose scale means another thing, it can't.

        Raises:
            MmacsError: If ``bits`` is out of range or such a change.
        """
        if self.kind == 'weight' and bits != self.bits and 1 in (bits, self.bits):
            raise MmacsError(f'{self.name}: DoReFa quantizes 1-bit weights in another way than others: convert anew')
        super().change_bits(bits)

    def _is_sign(self) -> bool:
        return self.kind == 'weight' and self.bits == 1

    @staticmethod
    def _squash(x: Tensor, num_channels: int) -> Tensor:
        """``tanh(w) / max|tanh(w)|`` per channel, or of all, within [-1, 1]."""
        squashed = x.tanh()
        axes = tuple(range(num_channels > 1, x.dim()))
        return squashed / squashed.abs().amax(axes, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
