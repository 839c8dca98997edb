"""The range of least quantization error, found by trying: real rounding on a sample. Imports torch alone."""

from typing import Callable, Optional, Tuple

import torch
from torch import Tensor

SAMPLE_SIZE = 2**15  # values that candidates are tried on
_COARSE = [2.0 ** (-k / 4) for k in range(33)]  # shares of the whole range, down to 1/256
_FINE = [2.0 ** (k / 16) for k in range(-3, 4)]

Error = Callable[[Tensor, Tensor], Tensor]  # of ranges [low, high], one number for each


def lost_share(samples: Tensor, quantized: Tensor, per_input: Optional[Tensor] = None) -> Tensor:
    """Mean over outputs of ``e / (1 + e)``, e being an output's squared error relative to its variance.

    Where channels differ a hundredfold, as before the first depthwise convolution of a small detector, the plain
    squared error of a tensor sees the large ones alone, and the outputs that read the small ones are lost.
    ``e / (1 + e)`` is the share of an output that the best linear reader loses; an output that is lost anyhow costs 1,
    and does not shrink the range of all.

    Args:
        samples (Tensor): Values, float32, shape (number of channels, n).
        quantized (Tensor): What they are quantized to, of the same shape.
        per_input (Tensor, optional): Relative errors of outputs per squared error of channels, shape (number of
            outputs, number of channels), see :class:`~.output_error.OutputError`. None takes the channels as outputs.

    Returns:
        Tensor: Shape (1,), from 0 to 1. With one channel it is least where the squared error is.
    """
    error = (quantized - samples).square().mean(1)
    if per_input is None:
        error = error / samples.var(1, correction=0).clamp_min(torch.finfo(torch.float32).tiny)
    else:
        error = per_input @ error
    return (1 - 1 / (1 + error)).mean(0, keepdim=True)


def zero_based_range(
    samples: Tensor, bits: int, symmetric: bool, per_input: Optional[Tensor] = None
) -> Tuple[Tensor, int]:
    """Step and zero point of a grid ``step * (k - zero_point)``, k in [0, 2^bits - 1], of least :func:`lost_share`.

    Args:
        samples (Tensor): See :func:`lost_share`.
        bits (int): Bit-width, at least 2 if symmetric.
        symmetric (bool): Whether the zero point is in the middle. Otherwise it is 0 where no value is negative.
        per_input (Tensor, optional): See :func:`lost_share`.

    Returns:
        Tuple[Tensor, int]: Step, shape (1,), 0 if all values are; integer zero point.
    """
    steps = 2**bits - 1

    def error(low: Tensor, high: Tensor) -> Tensor:
        step, zero_point = zero_based_grid(low, high, bits, symmetric)
        levels = samples.mul(1 / step.clamp_min(torch.finfo(torch.float32).tiny)).round_()
        return lost_share(samples, levels.clamp_(-zero_point, steps - zero_point).mul_(step), per_input)

    low, high = whole_range(samples, symmetric)
    # what holds integers, as images do, loses nothing to a step that is a power of two
    whole = (high - low).clamp_min(torch.finfo(torch.float32).tiny) / steps
    whole = torch.exp2(whole.log2().ceil()) * steps
    exact = (low, low + whole)
    low, high = least_error(error, low, high, torch.zeros_like(low), one_end=symmetric or not low.any().item())
    if not symmetric and (error(*exact) < error(low, high)).item():
        low, high = exact
    step, zero_point = zero_based_grid(low, high, bits, symmetric)
    return step, int(zero_point.item())


def whole_range(values: Tensor, symmetric: bool) -> Tuple[Tensor, Tensor]:
    """Returns the ends of the range that covers all values, and zero, shape (1,)."""
    low, high = values.amin().clamp_max(0).view(1), values.amax().clamp_min(0).view(1)
    return (-high.maximum(-low), high.maximum(-low)) if symmetric else (low, high)


def zero_based_grid(low: Tensor, high: Tensor, bits: int, symmetric: bool) -> Tuple[Tensor, Tensor]:
    """Returns step and zero point, a whole number, of the grid that spans a range, each of the shape of its ends."""
    steps, middle = 2**bits - 1, 2 ** (bits - 1)
    if symmetric:
        return high / (middle - 1), torch.full_like(high, middle)
    step = (high - low) / steps
    return step, (-low / step.clamp_min(torch.finfo(torch.float32).tiny)).round().clamp(0, steps)


def offset_range(rows: Tensor, bits: int) -> Tuple[Tensor, Tensor]:
    """Step and offset of grids ``step * k + offset``, k in [0, 2^bits - 1], of least squared error.

    Args:
        rows (Tensor): Values, float32, shape (R, n): n values that share one of R ranges.
        bits (int): Bit-width.

    Returns:
        Tuple[Tensor, Tensor]: Steps, 0 where all values are the same, and offsets, shape (R,).
    """
    steps = 2**bits - 1

    def error(low: Tensor, high: Tensor) -> Tensor:
        step = ((high - low) / steps).clamp_min(torch.finfo(torch.float32).tiny)[:, None]
        levels = ((rows - low[:, None]) / step).round_().clamp_(0, steps)
        return levels.mul_(step).add_(low[:, None]).sub_(rows).square_().mean(1)

    low, high = least_error(error, rows.amin(1), rows.amax(1), rows.mean(1))
    return (high - low) / steps, low


def least_error(
    error: Error, low: Tensor, high: Tensor, anchor: Tensor, one_end: bool = False
) -> Tuple[Tensor, Tensor]:
    """Move the ends of ranges towards an anchor, together and one after the other, to where an error is least.

    Args:
        error (Callable): Gives the error of each range, shape (R,), for ``low`` and ``high``.
        low (Tensor): Lowest values, shape (R,).
        high (Tensor): Highest values, shape (R,).
        anchor (Tensor): What stays inside, shape (R,).
        one_end (bool): Whether only the upper end is moved.

    Returns:
        Tuple[Tensor, Tensor]: Both ends, shape (R,); nothing larger than the error of the whole range is returned.
    """
    best, whole = error(low, high), (low, high)
    ends = [(False, True)] if one_end else [(True, True), (False, True), (True, False)]
    for shares in (_COARSE, _FINE):
        start = whole if shares is _COARSE else (low, high)
        for moved in ends:
            for share in shares:
                candidate = [
                    anchor + share * (begin - anchor) if move else end
                    for begin, end, move in zip(start, (low, high), moved)
                ]
                found = error(*candidate)
                if shares is _COARSE and (found > 4 * best).all():
                    break  # smaller ranges only clip more
                better = found < best
                best = torch.where(better, found, best)
                low, high = (torch.where(better, *pair) for pair in zip(candidate, (low, high)))
    return low, high
