"""Ranges that follow the data and have no gradient: extremes, their moving average, percentiles."""

import math
from typing import Any, Dict, Optional

import torch
from torch import Tensor

from mmacs.quantization.fake_quant import fill_zeros, round_to_levels
from mmacs.quantization.quantizers.base import ASYMMETRIC, Quantizer, check_momentum
from mmacs.utils.checks import is_number, require_switch
from mmacs.utils.errors import MmacsError
from mmacs.utils.registry import QUANTIZERS


@QUANTIZERS.register_module()
class MinMax(Quantizer):
    """The range from the smallest to the largest value ever seen in training.

    Weights' ranges are those of the weight in the last training forward. Symmetric grids have zero in their centre (or
    at their end, for unsigned data); asymmetric ones span [min, max], moved so that zero is a level. Processes average
    their ranges, see :func:`~..synchronise.synchronise_ranges`.

    Args:
        symmetric (bool, optional): Whether the grid is symmetric. None, the default, is True for weights, and False for
            activations with negative values.
        **kwargs: See :class:`~.base.Quantizer`.
    """

    recomputable = True
    followed = ('low', 'high')

    def __init__(self, symmetric: Optional[bool] = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if symmetric is not None:
            require_switch('symmetric', symmetric)
        self.symmetric = symmetric
        self.asymmetric = symmetric is None
        self.register_buffer('low', torch.zeros(self.num_ranges))
        self.register_buffer('high', torch.ones(self.num_ranges))

    def statistic(self, x: Tensor) -> Tensor:
        """Returns the smallest and largest value, shape (2, number of channels)."""
        return torch.stack(torch.aminmax(self.memory_rows_of(x), dim=1))

    def combine(self, statistics: Tensor) -> Tensor:
        """Returns the union of ranges."""
        return torch.stack([statistics[:, 0].amin(0), statistics[:, 1].amax(0)])

    def moved(self, range_: Tensor, seen: Tensor) -> Tensor:
        """Returns the range of activations after a training batch, both of shape (2, ranges of a level)."""
        return self.combine(torch.stack([range_, seen]))

    def set_range(self, statistic: Tensor, level: int, q_min: int, q_max: int) -> None:
        """Take the range of calibration."""
        self.at(self.low, level).copy_(statistic[0])
        self.at(self.high, level).copy_(statistic[1])

    def refresh(self, x: Tensor, level: int) -> None:
        """Take the weight's range; follow that of activations."""
        seen = self.statistic(x)
        if self.kind == 'activation':
            before = torch.stack([self.at(self.low, level), self.at(self.high, level)])
            seen = torch.where(seen.isfinite().all(), self.moved(before, seen), before)  # a loss scale skips such steps
        self.set_range(seen, level, 0, 0)

    def options(self) -> Dict[str, Any]:
        """Returns ``symmetric`` where it is False, beside what all quantizers tell."""
        return {**super().options(), **({'symmetric': False} if self.symmetric is False else {})}

    def is_symmetric(self, level: int) -> bool:
        """Returns whether a level's grid has zero in its centre or at its end."""
        return self.symmetric is not False and self.zero(level) != ASYMMETRIC  # which a checkpoint may bring

    def loses_negative(self, level: int) -> bool:
        """Returns whether negative values become zero, which a range of both ends follows."""
        return super().loses_negative(level) and self.is_symmetric(level)

    def bounds(self, level: int = 0) -> tuple:
        """An asymmetric grid counts from zero."""
        return super().bounds(level) if self.is_symmetric(level) else (0, 2**self.bits - 1)

    def grid_step(self, level: int, q_min: int, q_max: int) -> Tensor:
        """Returns the smallest step whose grid covers the range, before it may be rounded to a power of two."""
        low, high = self.at(self.low, level).clamp_max(0), self.at(self.high, level).clamp_min(0)
        if not self.is_symmetric(level):
            return fill_zeros((high - low) / q_max)
        if self.bits == 1 and self.level_is_signed(level):
            return fill_zeros(torch.maximum(high, -low)) * 2
        return fill_zeros(torch.maximum(high / q_max, low / q_min) if q_min else high / q_max)

    def grid_offset(self, level: int, step: Tensor, q_max: int) -> Optional[Tensor]:
        """Returns a whole number of steps, so that zero is a level."""
        if self.is_symmetric(level):
            return super().grid_offset(level, step, q_max)
        return step * (self.at(self.low, level).clamp_max(0) / step).round()

    def fake_quantize(self, x: Tensor, step: Tensor, q_min: int, q_max: int) -> Tensor:
        """Round with a straight-through gradient."""
        return round_to_levels(x, step, q_min, q_max)


@QUANTIZERS.register_module()
class EMAMinMax(MinMax):
    """The exponential moving average of the smallest and largest value of each training batch.

    Args:
        momentum (float): Weight of a new batch, in (0, 1]. Defaults to 0.01.
        **kwargs: See :class:`MinMax`.

    Raises:
        MmacsError: If ``momentum`` is out of range.
    """

    def __init__(self, momentum: float = 0.01, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_momentum(momentum)
        self.momentum = momentum

    def combine(self, statistics: Tensor) -> Tensor:
        """Returns the mean of ranges."""
        return statistics.mean(0)

    def moved(self, range_: Tensor, seen: Tensor) -> Tensor:
        """Returns a step from the old range towards the batch's."""
        return torch.lerp(range_, seen, self.momentum)


@QUANTIZERS.register_module()
class Percentile(EMAMinMax):
    """Like :class:`EMAMinMax`, but of percentiles, so that a few outliers don't set the range.

    Args:
        percentile (float): Share of values, in percent, that the range covers at each of its ends, in (50, 100].
            Defaults to 99.9.
        **kwargs: See :class:`EMAMinMax`.

    Raises:
        MmacsError: If ``percentile`` is out of range.
    """

    max_elements = 2**16  # per range: sorting all activations would take longer than the layer

    def __init__(self, percentile: float = 99.9, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not is_number(percentile) or not 50 < percentile <= 100:
            raise MmacsError(f'percentile must lie in (50, 100], got {percentile!r}')
        self.percentile = percentile

    def statistic(self, x: Tensor) -> Tensor:
        """The lower and upper percentile of at most 2^16 evenly spaced values, shape (2, number of channels)."""
        rows = self.memory_rows_of(x)
        rows = rows[:, :: 1 + (rows.shape[1] - 1) // self.max_elements]
        ordered = rows.sort(1).values  # torch.quantile can't be compiled for sizes that vary
        share, last = self.percentile / 100, rows.shape[1] - 1
        return torch.stack([_interpolate(ordered, (1 - share) * last), _interpolate(ordered, share * last)])


def _interpolate(rows: Tensor, position: float) -> Tensor:
    """Returns the values between two neighbouring columns of a matrix."""
    below = math.floor(position)
    return torch.lerp(rows[:, below], rows[:, math.ceil(position)], position - below)
