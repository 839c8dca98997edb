"""Levels that are powers of two of a range apart, and zero: base-2 logarithmic quantization. Imports torch alone."""

from typing import Optional

import torch
from torch import Tensor

from mmacs.quantization.fake_quant import per_element, scale_gradient

MOST_MAGNITUDES = 64  # smaller ones than 2^-63 of the largest level are nothing


def num_magnitudes(bits: int) -> int:
    """Returns how many levels lie on each side of zero: one code of ``2^bits`` is zero, half of the rest negative."""
    return min(2 ** (bits - 1) - 1, MOST_MAGNITUDES)


def zero_bin(rows: Tensor, largest: Tensor, bits: int, pruning: Optional[float]) -> Tensor:
    """Magnitude up to which values become zero.

    Args:
        rows (Tensor): Values, float32, shape (C, n), n that share a range.
        largest (Tensor): Largest level of each range, shape (C,).
        bits (int): Bit-width, at least 2.
        pruning (float, optional): Share of the values in each range that becomes zero, in [0, 1): of equal magnitudes
            all or none do. None is half of the smallest level, where zero is the nearest.

    Returns:
        Tensor: float32, shape (C,); -1 where nothing is to become zero.
    """
    if pruning is None:
        return largest * 0.5 ** num_magnitudes(bits)
    count = round(pruning * rows.shape[1])
    if count == 0:
        return torch.full_like(largest, -1.0)
    # not kthvalue, which MMEngine's deterministic runs refuse on a GPU
    return rows.abs().topk(count, dim=1, largest=False, sorted=False).values.amax(1)


def log2_quantize(x: Tensor, largest: Tensor, zero: Tensor, bits: int) -> Tensor:
    """Map values to the nearest of ``0`` and ``+-largest 2^-k``, k from 0 to :func:`num_magnitudes` - 1.

    With q(x) the level in units of m = ``largest``, gradients are those of LSQ (Esser et al. 2020) with m for the step:
    to x 1 inside the range and 0 outside, to m ``q(x) - x / m`` inside and the sign of x outside, times ``1 / sqrt(n)``
    where n counts the elements that share m. What is in the zero bin keeps its gradient, so that it can come back.

    Args:
        x (Tensor): Values, float32; the first axis is the channel axis if there are several ranges.
        largest (Tensor): Largest level of each range, positive, shape (1,) or (x.shape[0],).
        zero (Tensor): Magnitude up to which values become zero, of the same shape, see :func:`zero_bin`.
        bits (int): Bit-width, at least 2.

    Returns:
        Tensor: Quantized values, in the shape of ``x``.
    """
    top = per_element(scale_gradient(largest, (largest.numel() / x.numel()) ** 0.5), x)
    v = (x / top).clamp(-1, 1)
    with torch.no_grad():
        # the border between 2^k and 2^(k+1) is 1.5 * 2^k
        exponent = (v.abs() * (4 / 3)).log2().floor().clamp(1 - num_magnitudes(bits), 0)
        level = v.sign() * exponent.exp2()
        level = torch.where(x.abs() <= per_element(zero, x), 0.0, level)
    through = top * (v + (level - v).detach())
    return top.detach() * level + (through - through.detach())  # exactly on the levels


def best_largest(rows: Tensor, bits: int, pruning: Optional[float]) -> Tensor:
    """Returns the largest level of least squared error, of those an eighth of an octave apart below the largest value.

    Args:
        rows (Tensor): Values, float32, shape (C, n).
        bits (int): Bit-width, at least 2.
        pruning (float, optional): See :func:`zero_bin`.

    Returns:
        Tensor: float32, shape (C,); 0 where all values are.
    """
    highest = rows.abs().amax(1)
    best, least = highest.clone(), torch.full_like(highest, float('inf'))
    for eighth in range(25):
        largest = highest * 2 ** (-eighth / 8)
        safe = torch.where(largest > 0, largest, 1.0)
        error = (log2_quantize(rows, safe, zero_bin(rows, safe, bits, pruning), bits) - rows).square().sum(1)
        best, least = torch.where(error < least, largest, best), torch.minimum(error, least)
    return best
