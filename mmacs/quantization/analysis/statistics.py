"""What quantizers do to real values: clipping, levels in use, signal-to-noise ratio; measured batch by batch."""

import math
from dataclasses import dataclass, replace
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

import torch
from torch import Tensor, nn

from mmacs.quantization.convert import quantizers
from mmacs.quantization.histogram import bin_counts
from mmacs.quantization.quantizers import Grid, Quantizer

_BINS = 64


@dataclass
class Histogram:
    """How many values lie where among the integers of their grid, before they are rounded and clipped.

    Attributes:
        low (float): Lower end, in steps; what lies below is counted in the first bin.
        high (float): Upper end.
        q_min (int): Integer of the lowest level; with several grids that of the first.
        q_max (int): Integer of the highest level.
        counts (List[int]): Values in each of 64 bins of equal width.
    """

    low: float
    high: float
    q_min: int
    q_max: int
    counts: List[int]


class Tally:
    """Counts over all values that met the ranges of one call of a quantizer; memory doesn't grow with the values.

    Args:
        num_ranges (int): Number of ranges along the first axis of the values.

    Attributes:
        calls (int): Number of updates.
        count (int): Number of values.
        clipped (int): Number of values outside the range, by more than rounding errors of float32.
        signal (float): Sum of squares of the values, which is added up in float64.
        noise (float): Sum of squares of what quantization changed.
        histogram (Histogram, optional): Of the values before they are quantized, over the levels of their own range;
            None before the first update, and where levels form no grid.
    """

    def __init__(self, num_ranges: int = 1) -> None:
        self.num_ranges = num_ranges
        self.calls = self.count = self.clipped = 0
        self.signal = self.noise = 0.0
        self.histogram: Optional[Histogram] = None
        self._used: Optional[Tensor] = None  # bool, (ranges, levels)
        self._distinct: Optional[List[Tensor]] = None  # of levels that form no grid, per range

    def update(self, x: Tensor, y: Tensor, grid: Optional[Grid], alike: Optional[Tensor] = None) -> None:
        """Add values and what they were quantized to.

        Args:
            x (Tensor): Values, any shape; the first axis is that of the ranges if there are several.
            y (Tensor): Fake-quantized values, same shape.
            grid (Grid, optional): Levels of the quantizer; None if they are not evenly spaced, where nothing is
                clipped, and the levels in use are the distinct values per range.
            alike (Tensor, optional): Quantized values that share their levels, where not all of a range do: the levels
                in use are then the distinct ones of these, from the first update.
        """
        x, y = (values.detach().float().reshape(self.num_ranges, -1) for values in (x, y))
        self.calls += 1
        self.count += x.numel()
        self.signal += x.double().square().sum().item()
        self.noise += (x - y).double().square().sum().item()
        if grid is None and alike is not None:
            self._distinct = self._distinct or [alike.unique()]
            return
        if grid is None:
            before = self._distinct or [y.new_empty(0)] * self.num_ranges
            self._distinct = [torch.cat(pair).unique() for pair in zip(before, y)]
            return
        step, offset = (None if part is None else part.detach().reshape(-1, 1) for part in (grid.step, grid.offset))
        offset = torch.zeros_like(step) if offset is None else offset
        low, high = step * (grid.q_min - 1e-3) + offset, step * (grid.q_max + 1e-3) + offset
        self.clipped += int(((x < low) | (x > high)).sum())
        self._count_bins(((x - offset) / step), grid)
        if self._used is None:
            self._used = torch.zeros(self.num_ranges, grid.q_max - grid.q_min + 1, dtype=torch.bool, device=y.device)
        level = ((y - offset) / step).round().long().sub_(grid.q_min).clamp_(0, self._used.shape[1] - 1)
        level += torch.arange(self.num_ranges, device=y.device)[:, None] * self._used.shape[1]
        self._used.view(-1)[level.view(-1)] = True

    def _count_bins(self, places: Tensor, grid: Grid) -> None:
        """Add values, as places among the integers of the grid; a quarter of the range is kept on each side of it."""
        beside = max(1.0, (grid.q_max - grid.q_min + 1) / 4)
        low, high = grid.q_min - 0.5 - beside, grid.q_max + 0.5 + beside
        counts = bin_counts(places, low, high, _BINS).tolist()
        if self.histogram is None:
            self.histogram = Histogram(low, high, grid.q_min, grid.q_max, [0] * _BINS)
        self.histogram.counts[:] = map(sum, zip(self.histogram.counts, counts))

    @property
    def levels(self) -> List[int]:
        """Number of levels in use, per range; 0 before the first update."""
        if self._used is not None:
            return self._used.sum(1).tolist()
        return [len(values) for values in self._distinct or [()] * self.num_ranges]


@dataclass
class QuantizerStatistics:
    """What one quantizer is and did; see :func:`measure`.

    Attributes:
        name (str): Its name in the model.
        kind (str): ``'weight'`` or ``'activation'``.
        type (str): Name of its class.
        bits (int): Bit-width.
        granularity (str): What has a range of its own: ``'tensor'``, ``'channel'`` or ``'level'`` (of the pyramid).
        step (Tuple[float, float], optional): Smallest and largest step, in units of the values; None if the levels
            are not evenly spaced, or no range was set.
        calls (int): How often it quantized.
        clipped (float, optional): Share of values outside the range, 0 to 1; None with one bit, whose two levels are
            meant to have values outside of them.
        levels (float): Levels in use, of ``2^bits``, as the mean over the ranges.
        dead_ranges (int): Number of ranges with fewer than two levels in use.
        num_ranges (int): Number of ranges that values met, or of all if none was met: layers of their own per pyramid
            level have as many ranges as there are levels, and use one.
        sqnr_db (float, optional): Signal-to-quantization-noise ratio in dB; None if there is no noise, no signal, or
            the quantizer holds weights of its own.
        histogram (Histogram, optional): Of the values before they are quantized, of all ranges together; None if none
            was met, or levels form no grid.
    """

    name: str
    kind: str
    type: str
    bits: int
    granularity: str
    step: Optional[Tuple[float, float]]
    calls: int
    clipped: Optional[float]
    levels: float
    dead_ranges: int
    num_ranges: int
    sqnr_db: Optional[float]
    histogram: Optional[Histogram] = None

    @property
    def complaint(self) -> Optional[str]:
        """A few words on a quantizer through which nothing, or nothing in some ranges, gets; None if all is well."""
        if self.calls == 0:
            return 'never called'
        if self.dead_ranges == 0:
            return None
        if self.dead_ranges == self.num_ranges:
            return 'a single level in use'
        unit = 'channels' if self.granularity == 'channel' else 'pyramid levels'
        return f'{self.dead_ranges} of {self.num_ranges} {unit} with a single level in use'


def sqnr_db(signal: float, noise: float) -> Optional[float]:
    """Signal-to-quantization-noise ratio, ``10 log10(sum x^2 / sum (x - x_hat)^2)``, in dB; None if either is zero."""
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None


@torch.no_grad()
def measure(
    model: nn.Module, batches: Iterable[Any], forward: Optional[Callable[[Any], Any]] = None
) -> List[QuantizerStatistics]:
    """Run a calibrated model on batches and look at what goes into each quantizer and what comes out.

    Weights are looked at once, inputs in every call. The model is left in eval mode.

    Args:
        model (nn.Module): A converted model, calibrated.
        batches (Iterable): What to run; one batch is held at a time.
        forward (Callable, optional): Runs the model on one batch; defaults to ``model(batch)``.

    Returns:
        List[QuantizerStatistics]: One per quantizer, in the model's order.
    """
    model.eval()
    forward = forward or model
    tallies: Dict[Quantizer, List[Tally]] = {
        quantizer: [Tally(quantizer.num_channels) for _ in range(quantizer.num_levels)]
        for _, quantizer in quantizers(model)
    }

    def look(quantizer: Quantizer, args: Tuple[Tensor], output: Tensor) -> None:
        level = quantizer.calls - 1 if quantizer.num_levels > 1 else 0
        tally = tallies[quantizer][level]
        if quantizer.enabled and args[0].numel() and (quantizer.kind == 'activation' or tally.calls == 0):
            values = output if quantizer.replaces_weight else args[0]  # the layer's own weight plays no part
            grid = quantizer.grid(level) if quantizer.uniform else None
            tally.update(values, output, grid, quantizer.alike(output))

    handles = [quantizer.register_forward_hook(look) for quantizer in tallies]
    try:
        for batch in batches:
            forward(batch)
    finally:
        for handle in handles:
            handle.remove()
    return [_summary(name, quantizer, tallies[quantizer]) for name, quantizer in quantizers(model)]


def _summary(name: str, quantizer: Quantizer, tallies: List[Tally]) -> QuantizerStatistics:
    tallies = [tally for tally in tallies if tally.calls] or tallies  # ranges without a call say nothing
    calls = sum(tally.calls for tally in tallies)
    count = sum(tally.count for tally in tallies)
    levels = [number for tally in tallies for number in tally.levels]
    signal, noise = sum(tally.signal for tally in tallies), sum(tally.noise for tally in tallies)
    granularity = 'channel' if quantizer.num_channels > 1 else 'level' if quantizer.num_levels > 1 else 'tensor'
    return QuantizerStatistics(
        name=name,
        kind=quantizer.kind,
        type=type(quantizer).__name__,
        bits=quantizer.bits,
        granularity=granularity,
        step=_steps(quantizer),
        calls=calls,
        clipped=None if quantizer.bits == 1 else sum(tally.clipped for tally in tallies) / max(count, 1),
        levels=sum(levels) / len(levels),
        dead_ranges=sum(number < 2 for number in levels),
        num_ranges=len(levels),
        sqnr_db=None if quantizer.replaces_weight else sqnr_db(signal, noise),
        histogram=_together([tally.histogram for tally in tallies if tally.histogram is not None]),
    )


def _together(found: List[Histogram]) -> Optional[Histogram]:
    """Returns the histogram of all ranges: as they have as many levels, they have as many bins, from the lowest on."""
    if not found:
        return None
    return replace(found[0], counts=[sum(counts) for counts in zip(*(one.counts for one in found))])


def _steps(quantizer: Quantizer) -> Optional[Tuple[float, float]]:
    """Returns the smallest and largest step of the ranges that are set."""
    if not quantizer.uniform or not quantizer.is_initialized():
        return None
    grids = [quantizer.grid(level) for level, is_set in enumerate(quantizer.initialized.tolist()) if is_set]
    steps = torch.cat([grid.step for grid in grids])
    return steps.min().item(), steps.max().item()
