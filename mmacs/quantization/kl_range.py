"""The range whose levels keep the distribution of values, by relative entropy. Imports torch alone."""

from typing import Tuple

import torch
from torch import Tensor

from mmacs.quantization.histogram import bin_counts
from mmacs.quantization.mse_range import least_error, whole_range, zero_based_grid

NUM_BINS = 2048


def kl_range(values: Tensor, bits: int, symmetric: bool) -> Tuple[Tensor, int]:
    """Step and zero point of a grid ``step * (k - zero_point)``, k in [0, 2^bits - 1], of least :func:`divergence`.

    Zeros are left out. After a ReLU they are most of the values, and a level of every grid: in the histogram they would
    be one bin that outweighs the others, so that the range would depend on how many there are.

    Args:
        values (Tensor): float32, any shape.
        bits (int): Bit-width, at least 2 if symmetric.
        symmetric (bool): Whether the zero point is in the middle. Otherwise it is 0 where no value is negative.

    Returns:
        Tuple[Tensor, int]: Step, shape (1,), 0 if all values are; integer zero point.
    """
    low, high = whole_range(values, symmetric)
    values = values[values != 0]
    if values.numel() == 0:
        return torch.zeros_like(high), 0
    first, last = values.amin().item(), values.amax().item()
    if first < last:
        counts = bin_counts(values, first, last, NUM_BINS).to(values.dtype)
    else:
        counts = values.new_tensor([values.numel()])
    width = (last - first) / len(counts)
    centres = first + width * (torch.arange(len(counts), device=values.device) + 0.5)

    def error(low: Tensor, high: Tensor) -> Tensor:
        step, zero_point = zero_based_grid(low, high, bits, symmetric)
        if (step < width).item():
            return torch.full_like(step, torch.inf)  # the histogram can't tell
        levels = (centres / step).round()
        inside = (levels >= -zero_point) & (levels <= 2**bits - 1 - zero_point)
        return divergence(counts, levels, inside).view(1)

    one_end = symmetric or not low.any().item()
    low, high = least_error(error, low, high, torch.zeros_like(low), one_end=one_end)
    step, zero_point = zero_based_grid(low, high, bits, symmetric)
    return step, int(zero_point.item())


def divergence(counts: Tensor, levels: Tensor, inside: Tensor) -> Tensor:
    """Relative entropy of a histogram to what its quantized values tell of it.

    The reference has the values outside of the range in the outermost bins inside, where they are clipped to. The other
    has the values inside alone, those of a level spread evenly over its bins that are not empty.

    Args:
        counts (Tensor): Values by bin, float32, shape (n,).
        levels (Tensor): Level of each bin, not descending, shape (n,).
        inside (Tensor): Whether a bin lies in the range, a run of them, shape (n,).

    Returns:
        Tensor: In nats, a scalar; infinite if nothing is inside.
    """
    used = (inside & (counts > 0)).nonzero()[:, 0]
    if used.numel() == 0:
        return counts.new_tensor(torch.inf)
    kept = counts[used]
    _, level = levels[used].unique_consecutive(return_inverse=True)
    mass = torch.zeros_like(kept).index_add_(0, level, kept) / level.bincount(minlength=len(kept)).clamp_min(1)
    reference = kept.clone()
    reference[0] += counts[: used[0]].sum()
    reference[-1] += counts[used[-1] + 1 :].sum()
    share = reference / reference.sum()
    return (share * (share / (mass[level] / kept.sum())).log()).sum()
