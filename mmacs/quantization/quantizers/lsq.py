"""Learned step size quantization (Esser et al., ICLR 2020, arXiv 1902.08153)."""

import math
from typing import Any, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from mmacs.quantization.fake_quant import (
    fill_zeros,
    keep_positive,
    lsq_initial_step,
    lsq_quantize,
    scale_gradient,
)
from mmacs.quantization.mse_clip import channel_sample, mse_clip_of_bits
from mmacs.quantization.mse_range import SAMPLE_SIZE, zero_based_range
from mmacs.quantization.quantizers.base import ASYMMETRIC, SYMMETRIC, Grid, Quantizer
from mmacs.utils.errors import unknown_name
from mmacs.utils.registry import QUANTIZERS


@QUANTIZERS.register_module()
class LSQ(Quantizer):
    """Uniform levels ``s * k`` with a step size learned by gradient; see :func:`~..fake_quant.lsq_quantize`.

    Where activations have a few negative values (SiLU, GELU, hard-swish, images after normalisation), k runs from
    ``-z`` to ``2^bits - 1 - z``. The zero point z is an integer, as runtimes have it: calibration sets it, and it stays
    while the step is learned.

    Args:
        init (str): Where the step starts. ``'mse'``: at the least error, of weights by :func:`~..mse_clip.mse_clip`, of
            activations by :func:`~..mse_range.zero_based_range`. ``'mean'``: at the paper's ``2 E|x| / sqrt(q_max)``,
            with as many negative as positive levels; at 8 bits that is far from the full-precision model.
            ``'minmax'``: at the extremes, which clips nothing.
        channel_axis (int): Axis of an activation's channels: 1 for convolutions, -1 for linear layers.
        **kwargs: See :class:`~.base.Quantizer`.

    Raises:
        MmacsError: If ``init`` is unknown.
    """

    recomputable = True
    fused = True
    asymmetric = True
    inits: Sequence[str] = ('mse', 'mean', 'minmax')

    def __init__(self, init: str = 'mse', channel_axis: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if init not in self.inits:
            raise unknown_name('init', init, self.inits)
        self.init = init
        self.channel_axis = channel_axis
        self.per_input: Optional[Tensor] = None  # while calibrating, how outputs feel errors, see `lost_share`
        self.step = nn.Parameter(torch.ones(self.num_ranges))
        if self.asymmetric and self.kind == 'activation' and self.num_channels == 1:
            self.register_buffer('zero_point', torch.zeros(self.num_levels, dtype=torch.int32))

    @property
    def _takes_samples(self) -> bool:
        """Whether the range comes from samples of all calibration batches rather than from a number for each."""
        return self.init in ('mse', 'kl') and self.kind == 'activation' and self.num_channels == 1

    def statistic(self, x: Tensor) -> Tensor:
        """What the start is computed from.

        Returns:
            Tensor: For activations with one range a sample, shape (channels of ``x``, n); for weights, and activations
            with a range per channel, the best clips without and with sign, shape (2, number of channels); for
            ``init='minmax'`` how far values go below and above zero, shape (2, ranges); for ``init='mean'``, and one
            bit, for which that is the least squared error, the mean absolute value per range.
        """
        if self._takes_samples:
            return channel_sample(x, self.channel_axis if x.dim() > 1 else None)
        if self.init == 'mean' or self.bits == 1:
            return self.memory_rows_of(x).abs().mean(1)
        if self.init == 'minmax':
            low, high = torch.aminmax(self.memory_rows_of(x), dim=1)
            return torch.stack([-low, high]).clamp_min(0)
        return torch.stack([mse_clip_of_bits(self.memory_rows_of(x), self.bits, signed) for signed in (False, True)])

    def combine(self, statistics: Tensor) -> Tensor:
        """Returns the mean magnitude, or the largest of clips and ends: a channel may be silent in most batches."""
        return super().combine(statistics) if self.init == 'mean' or self.bits == 1 else statistics.amax(0)

    def combined(self, statistics: List[Tensor]) -> Tensor:
        """Statistics of calibration batches as one."""
        if not self._takes_samples:
            return super().combined(statistics)
        together = torch.cat(statistics, 1)
        return together[:, :: max(1, together.numel() // SAMPLE_SIZE)]

    def zero_of(self, has_negative: bool) -> int:
        """Where a grid has its zero; the paper's start knows no other place than the middle or the end."""
        zero = super().zero_of(has_negative)
        return SYMMETRIC if zero == ASYMMETRIC and self.init == 'mean' else zero

    def set_range(self, statistic: Tensor, level: int, q_min: int, q_max: int) -> None:
        """The step of least error, and its zero point, or ``2 E|x| / sqrt(q_max)``, section 2.1 of the paper."""
        self.at(self.step, level).copy_(self.first_step(statistic, level, q_max))

    def first_step(self, statistic: Tensor, level: int, q_max: int) -> Tensor:
        """Returns where the steps of a level start, see :meth:`set_range`; a zero point is written."""
        if self._takes_samples:
            return self._best_step(statistic, level)
        if self.init == 'mean' or self.bits == 1:
            return lsq_initial_step(statistic, q_max)
        if self.init == 'minmax':
            return self._covering_step(*statistic, level, q_max)
        signed = self.level_is_signed(level)
        return fill_zeros(statistic[int(signed)]) / 2 ** (self.bits - signed)

    def _best_step(self, samples: Tensor, level: int) -> Tensor:
        zero = self.zero(level)
        if zero == SYMMETRIC and self.bits == 1:
            return lsq_initial_step(samples.abs().mean().view(1), 1)  # of two levels the least squared error
        step, zero_point = self.best_range(samples, zero == SYMMETRIC)
        if zero == ASYMMETRIC:
            self.zero_point[level] = zero_point
        return fill_zeros(step)

    def best_range(self, samples: Tensor, symmetric: bool) -> Tuple[Tensor, int]:
        """Returns step and zero point of the range that activations start from."""
        return zero_based_range(samples, self.bits, symmetric, self.per_input)

    def _covering_step(self, below: Tensor, above: Tensor, level: int, q_max: int) -> Tensor:
        zero = self.zero(level)
        if zero != ASYMMETRIC:
            return fill_zeros((torch.maximum(below, above) if zero == SYMMETRIC else above) / q_max)
        step = fill_zeros((below + above) / (2**self.bits - 1))
        self.zero_point[level] = int((below / step).round())
        return step

    def bounds(self, level: int = 0) -> Tuple[int, int]:
        """Lowest and highest integer level at a pyramid level."""
        if self.zero(level) == ASYMMETRIC and self.bits > 1:
            zero_point = self.zero_point_of(level)
            return -zero_point, 2**self.bits - 1 - zero_point
        return super().bounds(level)

    def grid_step(self, level: int, q_min: int, q_max: int) -> Tensor:
        """Returns the learned step, kept positive."""
        return keep_positive(self.at(self.step, level))

    def quantize(self, x: Tensor, grid: Grid) -> Tensor:
        """Map float32 values to a grid; gradients of an offset are scaled as the step's, by ``1 / sqrt(n q_max)``."""
        if grid.offset is not None:
            scale = 1 / math.sqrt(x.numel() / grid.offset.numel() * grid.q_max)
            grid = grid._replace(offset=scale_gradient(grid.offset, scale))
        return super().quantize(x, grid)

    def fake_quantize(self, x: Tensor, step: Tensor, q_min: int, q_max: int) -> Tensor:
        """``s * round(clip(x / s, q_min, q_max))`` with the paper's gradients."""
        return lsq_quantize(x, step, q_min, q_max, watch=self.watch)

    @torch.no_grad()
    def change_bits(self, bits: int) -> None:
        """Go over to another bit-width: the step changes as its start does, the zero point with the levels."""
        ratio = (2**self.bits - 1) / (2**bits - 1)
        super().change_bits(bits)
        self.multiply_step(math.sqrt(ratio) if self.init == 'mean' else ratio)
        if getattr(self, 'zero_point', None) is not None:
            self.zero_point.copy_((self.zero_point / ratio).round())
            self.read_flags()

    def multiply_step(self, factor: float) -> None:
        """Multiply all steps, in place."""
        self.step.mul_(factor)
