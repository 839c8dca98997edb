"""The clip that minimises the mean squared quantization error, by fixed point. Imports torch alone."""

import math
from typing import Optional, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmacs.quantization.memory_order import memory_rows

SAMPLE_SIZE = 32768
MIN_PER_CHANNEL = 64


def mse_clip(magnitudes: Tensor, steps: int, row_weights: Optional[Tensor] = None) -> Tensor:
    """Clip s that minimises the (weighted) squared error of quantizing with the step ``d = s / steps``.

    Sakr et al. (OCTAV, ICML 2022, arXiv 2206.06501) take an error of d^2 / 12 for values inside the range and of
    (|x| - s)^2 for those outside. Here no value's error inside exceeds the value itself, since it may round to zero::

        J(s) = sum u min(x^2, d^2 / 12) 1(|x| <= s) + sum u (|x| - s)^2 1(|x| > s)

    Where dJ/ds with the indicators held fixed vanishes lies the paper's fixed point, with ``k = 1 / (12 steps^2)``
    (their 4^-B / 3 for B bits with sign, 4^-(B+1) / 3 without) and ``k s^2 = d^2 / 12``::

        s' = sum u |x| 1(|x| > s) / (k sum u 1(k s^2 < x^2 <= s^2) + sum u 1(|x| > s))

    The cap leaves zeros out, which have no error, and it is what makes weights of very different size possible: small
    values of large weight would pull s down without bound, while in truth they cost no more than rounding to zero.
    Ten iterations from a multiple of the mean magnitude converge; where rows are long, on an eighth of them first, so
    that four on all suffice. With ``row_weights`` J can have several minima, about one for each size of rows, and the
    start is the best of sixteen clips, each half of the one before.

    The error of real rounding exceeds its minimum by some 3 % at 4 bits, 7 % at 3 and 15 % at 2 for half-normal values,
    and less for normal and Laplace values; by up to a factor of 2 at 2 bits for uniform ones, which have no tail.

    Args:
        magnitudes (Tensor): Absolute values, float32, shape (R, n): n values that share one of R ranges.
        steps (int): Number of steps from 0 to the clip: 2^(bits-1) with sign, 2^bits without.
        row_weights (Tensor, optional): Weight u of each row's errors, shape (R,): one range for all rows.

    Returns:
        Tensor: Clips, shape (R,), or (1,) with ``row_weights``; 0 where all values are 0.
    """

    def total(per_row: Tensor) -> Tensor:
        return per_row if row_weights is None else (row_weights * per_row).sum(0, keepdim=True)

    k = 1 / (12 * steps**2)
    tiny = torch.finfo(magnitudes.dtype).tiny
    iterations = 10
    if row_weights is not None:
        highest = magnitudes.amax().view(1)
        starts = highest * 0.5 ** torch.arange(16, device=highest.device)
        errors = torch.cat([total(_model_error(magnitudes, start, k)) for start in starts])
        clip = starts[errors.argmin(0, keepdim=True)]
    elif magnitudes.shape[1] < 2**13:
        highest = magnitudes.amax(1)
        mean = magnitudes.sum(1) / magnitudes.count_nonzero(1).clamp_min(1)
        clip = mean * (1 + math.log2(2 * steps) / 2)
    else:
        highest = magnitudes.amax(1)
        clip = mse_clip(magnitudes[:, :: _coprime(8, magnitudes.shape[1])], steps)
        iterations = 4
    above = torch.empty_like(magnitudes)  # 0 and 1 as floats, which add up many times faster than booleans
    for _ in range(iterations):
        clip = clip.minimum(highest)[:, None]  # beyond it there is nothing to balance
        not_zeroed = torch.gt(magnitudes, math.sqrt(k) * clip, out=above).sum(1)
        outside = torch.ge(magnitudes, clip, out=above).sum(1)
        beyond = above.mul_(magnitudes).sum(1)
        clip = total(beyond) / total(k * (not_zeroed - outside) + outside).clamp_min(tiny)
    return clip


def _model_error(magnitudes: Tensor, clip: Tensor, k: float) -> Tensor:
    """The errors of which J is the weighted sum, by row."""
    inside = magnitudes.minimum(math.sqrt(k) * clip)
    return torch.where(magnitudes > clip, magnitudes - clip, inside).square().sum(1)


def mse_clip_of_bits(rows: Tensor, bits: int, signed: bool, row_weights: Optional[Tensor] = None) -> Tensor:
    """:func:`mse_clip` of values (R, n) with 2^(bits-1) steps from 0 to the clip with sign, 2^bits without."""
    return mse_clip(rows.abs() if signed else rows.relu(), 2 ** (bits - signed), row_weights)


def channel_sample(x: Tensor, channel_axis: Optional[int] = None) -> Tensor:
    """Up to about 32,768 evenly spaced elements of a tensor, by channel.

    Strides have no divisor in common with the sizes that they run over, so that no row or column is preferred.

    Args:
        x (Tensor): Values of any shape, floating dtype and layout.
        channel_axis (int, optional): Axis of the channels, each of which gives the same places, at least 64 if there
            are as many. None takes all elements as one channel.

    Returns:
        Tensor: float32, shape (number of channels or 1, elements per channel).
    """
    if channel_axis is None:
        x = (x.reshape(-1) if torch.compiler.is_compiling() else memory_rows(x)[1]).view(1, 1, -1)
    else:
        axis = channel_axis % x.dim()
        x = x.reshape(math.prod(x.shape[:axis]), x.shape[axis], -1)
    outer, channels, inner = x.shape
    stride = outer * inner // max(SAMPLE_SIZE // channels, MIN_PER_CHANNEL)
    if stride > 1:
        along_inner = min(stride, inner)
        x = x[:: _coprime(stride // along_inner, outer), :, :: _coprime(along_inner, inner)]
    return x.transpose(0, 1).reshape(channels, -1).float().contiguous()


def _coprime(stride: int, size: int) -> int:
    """Returns the least integer from ``stride`` on that has no divisor in common with ``size``."""
    while math.gcd(stride, size) > 1:
        stride += 1
    return stride


class _ClippedStraightThrough(torch.autograd.Function):
    """See :func:`clipped_straight_through`."""

    @staticmethod
    def forward(ctx, x: Tensor, quantized: Tensor, clip: Tensor, signed: bool, decay: bool) -> Tensor:
        ctx.save_for_backward(x, clip)
        ctx.signed, ctx.decay = signed, decay
        return quantized.view_as(quantized)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tuple[Tensor, None, None, None, None]:
        x, clip = ctx.saved_tensors
        if ctx.decay:
            grad = grad * (clip / x.abs()).clamp_max(1)
        else:
            # |x - centre| <= half the range, as a float, which is far quicker than masks
            centre, half = (0, clip) if ctx.signed else (clip / 2, clip / 2)
            inside = (x - centre).abs_()
            grad = torch.le(inside, half, out=inside).mul_(grad)
        return grad, None, None, None, None


def clipped_straight_through(x: Tensor, quantized: Tensor, clip: Tensor, signed: bool, decay: bool) -> Tensor:
    """``quantized``, with a gradient to ``x`` that passes inside the range and fades or stops outside.

    Args:
        x (Tensor): Values before quantization, float32.
        quantized (Tensor): Values after it, of the same shape; nothing flows to them.
        clip (Tensor): Positive clip s, broadcast against ``x``; nothing flows to it.
        signed (bool): Whether the range is [-s, s] rather than [0, s].
        decay (bool): Outside, whether the gradient is scaled by ``s / |x|`` (magnitude-aware differentiation, section
            4 of Sakr et al. 2022) rather than 0 (piecewise linear).

    Returns:
        Tensor: ``quantized``.
    """
    return _ClippedStraightThrough.apply(x, quantized, clip, signed, decay)
