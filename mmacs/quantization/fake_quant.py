"""Fake-quant arithmetic: integer levels, steps, and the two quantizer functions. Imports torch alone."""

import math
from functools import partial
from typing import Callable, Optional, Tuple, Union

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmacs.quantization import cpu_kernels
from mmacs.quantization.cpu_kernels import have_kernels
from mmacs.quantization.memory_order import in_layout_of, memory_rows, pieces
from mmacs.quantization.recompute import remember

Watch = Callable[[Union[float, Tensor]], None]


def level_bounds(bits: int, signed: bool) -> Tuple[int, int]:
    """Lowest and highest integer level of a uniform quantizer.

    Args:
        bits (int): Bit-width.
        signed (bool): Whether negative levels exist.

    Returns:
        Tuple[int, int]: ``(-2^(bits-1), 2^(bits-1) - 1)`` if signed, else ``(0, 2^bits - 1)``.
    """
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def keep_positive(step: Tensor) -> Tensor:
    """Returns the magnitude of a learned step or clip, away from zero, whatever the optimizer made of it."""
    return step.abs().clamp_min(torch.finfo(torch.float32).tiny * 1e8)


def power_of_two_step(step: Tensor) -> Tensor:
    """Round positive steps to the nearest power of two (in the log domain).

    Rounding passes gradients straight through in the log domain: d(rounded)/d(step) = rounded / step.
    """
    fixed = step.detach()
    rounded = torch.exp2(fixed.log2().round())
    return rounded + (step - fixed) * (rounded / fixed)


def trained_power_of_two(log2_threshold: Tensor) -> Tensor:
    """``2^ceil(log2_threshold)``, with ceil passed straight through: its gradient is ``ln 2`` times the value."""
    fixed = log2_threshold.detach()
    value = torch.exp2(fixed.clamp(-60, 60).ceil())
    return value + value * math.log(2) * (log2_threshold - fixed)


def fill_zeros(values: Tensor) -> Tensor:
    """Replace zeros, from which no range can be made, by the mean of the others, or by 1 if there is no other.

    Args:
        values (Tensor): Steps, clips or magnitudes, not negative, any shape.

    Returns:
        Tensor: All positive, of the same shape.
    """
    positive = values > 0
    count = positive.sum()
    mean = torch.where(count > 0, values.sum() / count.clamp_min(1), torch.ones_like(values.sum()))
    return torch.where(positive, values, mean)


def scale_gradient(x: Tensor, scale: Union[float, Tensor]) -> Tensor:
    """``x``, whose gradient is multiplied by ``scale``, a number or one for each element."""
    return x.detach() + (x - x.detach()) * scale


def lsq_initial_step(mean_abs: Tensor, q_max: int) -> Tensor:
    """Initial LSQ step size, ``2 E|v| / sqrt(q_max)`` (Esser et al. 2020, section 2.1).

    Where the mean is zero (a dead channel, an all-zero activation) that formula gives a step of zero, from which
    nothing can learn: see :func:`fill_zeros`.

    Args:
        mean_abs (Tensor): Mean absolute value of the elements that share one step, any shape.
        q_max (int): Highest integer level, at least 1.

    Returns:
        Tensor: Step sizes, all positive, of the same shape.
    """
    return fill_zeros(2 * mean_abs / math.sqrt(q_max))


def reads_are_free(x: Tensor) -> bool:
    """Returns whether a value may become a Python number: that stalls a GPU and breaks a compiled graph."""
    return x.device.type == 'cpu' and not torch.compiler.is_compiling()


def per_element(step: Tensor, x: Tensor) -> Tensor:
    """Steps of shape (1,) or (x.shape[0],) as they broadcast against values."""
    return step.reshape(-1, *[1] * (x.dim() - 1)) if step.numel() > 1 else step


def quantized_values(x: Tensor, step: Tensor, q_min: int, q_max: int, watch: Optional[Watch] = None) -> Tensor:
    """:func:`round_to_levels` without gradient.

    Args:
        x (Tensor): See :func:`round_to_levels`.
        step (Tensor): See :func:`round_to_levels`.
        q_min (int): Lowest integer level.
        q_max (int): Highest integer level.
        watch (Callable, optional): Gets the sum of ``x``, which is NaN or Inf if one of its values is.

    Returns:
        Tensor: Fake-quantized values, same shape, dtype and layout as ``x``.
    """
    if watch is not None and not reads_are_free(x):
        watch(x.sum(dtype=torch.float32))
    if torch.compiler.is_compiling():  # a compiled Function that works in place has a gradient of zero (torch 2.11)
        scale = per_element(step, x)
        y = (x * scale.reciprocal()).round().clamp(q_min, q_max) * scale  # float32, as steps are
        return y if y.dtype == x.dtype else y.to(x.dtype)  # nor may it convert what needs no conversion
    if x.is_cuda:
        return _by_torchs_kernels(x.float(), step, q_min, q_max).to(x.dtype)
    # Bit-equal to torch's kernels, which are scalar on a CPU: 16 times slower
    dense, rows = memory_rows(x, step.numel())
    y = torch.empty_like(dense)
    operands = rows, memory_rows(y, step.numel())[1], step, q_min, q_max
    watched = watch is not None and reads_are_free(x)
    total = cpu_kernels.quantize(*operands) if have_kernels(step, x) else _quantize_in_pieces(*operands, watched)
    if watched:
        watch(total)
    return in_layout_of(y, x)


def _quantize_in_pieces(x: Tensor, y: Tensor, step: Tensor, q_min: int, q_max: int, summed: bool) -> float:
    """:func:`.cpu_kernels.quantize` for any device and dtype; the sum is 0 unless it is wanted."""
    n, inverse = step.numel(), step.reciprocal()
    columns = (step[:, None], inverse[:, None]) if n > 1 else ()
    shared = (step.item(), inverse.item()) if n == 1 and reads_are_free(step) else (step, inverse)
    total = 0.0
    for values, result, *own in pieces(x, y, *columns):
        scale, reciprocal = own or shared
        values = values.float()  # a copy, unless they are float32
        if summed:
            total += values.sum().item()
        units = torch.mul(values, reciprocal, out=result if x.dtype == torch.float32 else values)
        units.round_().clamp_(q_min, q_max).mul_(scale)
        if units is not result:
            result.copy_(units)
    return total


def _by_torchs_kernels(x: Tensor, step: Tensor, q_min: int, q_max: int) -> Tensor:
    if step.numel() > 1:
        # a floating-point zero point is not range-checked, which would stall a GPU
        return torch.fake_quantize_per_channel_affine(x, step, torch.zeros_like(step), 0, q_min, q_max)
    zero_point = torch.zeros(1, dtype=torch.int32, device=step.device)
    return torch.fake_quantize_per_tensor_affine(x, step, zero_point, q_min, q_max)


class _RoundToLevels(torch.autograd.Function):
    """See :func:`round_to_levels`."""

    @staticmethod
    def forward(ctx, x: Tensor, step: Tensor, q_min: int, q_max: int) -> Tensor:
        ctx.save_for_backward(x, step)
        ctx.levels = q_min, q_max
        return quantized_values(x, step, q_min, q_max)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tuple[Tensor, None, None, None]:
        x, step = ctx.saved_tensors
        q_min, q_max = ctx.levels
        level = (x * per_element(step, x).reciprocal()).round()
        return grad.masked_fill((level < q_min) | (level > q_max), 0), None, None, None


def round_to_levels(x: Tensor, step: Tensor, q_min: int, q_max: int) -> Tensor:
    """``s * round(clip(x / s, q_min, q_max))``, bit-equal to torch's native fake-quant kernels in float32.

    As theirs, the gradient passes straight through where the rounded value lies in the range; the step gets none.

    Args:
        x (Tensor): Values of any floating dtype and layout, computed with in float32; the first axis is the channel
            axis if ``step`` has several entries.
        step (Tensor): Positive step sizes, float32, shape (1,) or (x.shape[0],).
        q_min (int): Lowest integer level.
        q_max (int): Highest integer level.

    Returns:
        Tensor: Fake-quantized values, same shape, dtype and layout as ``x``.
    """
    if not torch.is_grad_enabled():
        return quantized_values(x, step, q_min, q_max)
    return _RoundToLevels.apply(x, step.detach(), q_min, q_max)


def clip_and_round(x: Tensor, step: Tensor, q_min: int, q_max: int) -> Tensor:
    """Clip to [q_min s, q_max s], with gradients to ``x`` and to the bounds, then round straight through.

    Args and result as of :func:`round_to_levels`.
    """
    bound = per_element(step, x)
    clipped = torch.minimum(torch.maximum(x, q_min * bound), q_max * bound)
    return round_to_levels(clipped, step, q_min, q_max)


class _LSQ(torch.autograd.Function):
    """See :func:`lsq_quantize`."""

    @staticmethod
    def forward(
        ctx, x: Tensor, step: Tensor, q_min: int, q_max: int, scaled: bool, watch: Optional[Watch] = None
    ) -> Tensor:
        ctx.save_for_backward(x, step)  # not the result, which x tells
        ctx.levels = q_min, q_max
        ctx.scaled = scaled
        return quantized_values(x, step, q_min, q_max, watch)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tuple[Tensor, Tensor, None, None, None, None]:
        x, step = ctx.saved_tensors
        compute = _lsq_gradients_in_one if torch.compiler.is_compiling() else _lsq_gradients
        grad_x, grad_step = compute(grad, x, step, *ctx.levels)
        if ctx.scaled:
            q_min, q_max = ctx.levels
            grad_step = grad_step / math.sqrt(x.numel() / step.numel() * max(q_max, -1 - q_min))
        return grad_x, grad_step, None, None, None, None


def _lsq_gradients(grad: Tensor, x: Tensor, step: Tensor, q_min: int, q_max: int) -> Tuple[Tensor, Tensor]:
    """Returns the gradients to values and steps.

    That of a step is the paper's sum of ``grad * (round(x / s) - x / s | q_min | q_max)``, inside the range and
    outside.
    """
    n = step.numel()
    dense, values = memory_rows(x, n)
    grad_x = torch.empty_like(dense)
    rows = memory_rows(in_layout_of(grad, dense), n)[1], values, memory_rows(grad_x, n)[1]
    compute = cpu_kernels.lsq_gradients if have_kernels(step, x, grad) else _lsq_gradients_in_pieces
    grad_step = compute(*rows, step, q_min, q_max)
    return in_layout_of(grad_x, x), grad_step


def _lsq_gradients_in_pieces(grad: Tensor, x: Tensor, grad_x: Tensor, step: Tensor, q_min: int, q_max: int) -> Tensor:
    """:func:`.cpu_kernels.lsq_gradients` for any device and dtype."""
    n, inverse = step.numel(), step.reciprocal()
    columns = (inverse[:, None],) if n > 1 else ()
    shared = inverse.item() if n == 1 and reads_are_free(inverse) else inverse
    scratch = torch.empty(2, next(pieces(x))[0].numel(), device=x.device)  # no piece is larger than the first
    sums = []
    for grad_piece, piece, result, *own in pieces(grad, x, grad_x, *columns):
        units, inside = (row[: piece.numel()].view_as(piece) for row in scratch)
        factor = own[0] if own else shared
        sums.append(_lsq_piece(grad_piece, piece, result, factor, q_min, q_max, units, inside))
    return torch.cat(sums) if n > 1 else torch.stack(sums).sum(0)


def _lsq_piece(
    grad: Tensor,
    x: Tensor,
    grad_x: Tensor,
    inverse: Union[float, Tensor],
    q_min: int,
    q_max: int,
    units: Tensor,
    inside: Tensor,
) -> Tensor:
    """Writes the gradient to a piece of the values and returns that of its rows' steps; the last two are scratch."""
    grad = grad.float()
    torch.mul(x.float(), inverse, out=units)
    # hardtanh's backward is the one fused kernel for "where inside a range, else 0"; it wants Python numbers
    where_inside = torch.ops.aten.hardtanh_backward.grad_input
    if grad_x.dtype == torch.float32:
        where_inside(grad, units, q_min, q_max, grad_input=grad_x)
    else:
        grad_x.copy_(where_inside(grad, units, q_min, q_max, grad_input=inside))
    where_inside(units, units, q_min, q_max, grad_input=inside)
    return units.round_().clamp_(q_min, q_max).sub_(inside).mul_(grad).sum(1)


def _lsq_gradients_in_one(grad: Tensor, x: Tensor, step: Tensor, q_min: int, q_max: int) -> Tuple[Tensor, Tensor]:
    """:func:`_lsq_gradients` for compilers, which cut it into pieces themselves and don't bear work in place."""
    grad, units = grad.float(), x.float() * per_element(step, x).reciprocal()
    grad_x, inside = (torch.ops.aten.hardtanh_backward(values, units, q_min, q_max) for values in (grad, units))
    summands = grad * (units.round().clamp(q_min, q_max) - inside)
    return grad_x.to(x.dtype), summands.reshape(step.numel(), -1).sum(1)


def lsq_quantize(
    x: Tensor, step: Tensor, q_min: int, q_max: int, scaled: bool = True, watch: Optional[Watch] = None
) -> Tensor:
    """Fake-quantize with a learned step size: ``s * round(clip(x / s, q_min, q_max))``.

    Forward is that of torch's native fake-quant kernels, bit for bit in float32. Backward is equations 3 and 5 of Esser
    et al. 2020 (LSQ): with respect to ``x`` 1 inside the range, 0 at its ends and outside; with respect to the step
    ``round(x/s) - x/s`` inside, ``q_min`` below and ``q_max`` above, times ``1 / sqrt(n * q_max)`` where n counts the
    elements **that share one step** (and ``-1 - q_min`` stands for ``q_max`` where most levels are below zero).
    "Inside" is decided before rounding, as in the paper; torch's own learnable fake-quant op decides it after rounding,
    which gives other gradients for values up to half a step outside the range.
    Only ``x``, in its own dtype, and the step are kept for backward, also by what uses the result through
    :func:`~.recompute.recomputed`.

    Args:
        x (Tensor): Values of any floating dtype and layout, computed with in float32; the first axis is the channel
            axis if ``step`` has several entries.
        step (Tensor): Positive step sizes, float32, shape (1,) or (x.shape[0],).
        q_min (int): Lowest integer level.
        q_max (int): Highest integer level, at least 1.
        scaled (bool): Whether the step's gradient is scaled by ``1 / sqrt(n * q_max)``, which is LSQ's own.
        watch (Callable, optional): Gets the sum of ``x``, which is NaN or Inf if one of its values is.

    Returns:
        Tensor: Fake-quantized values, same shape, dtype and layout as ``x``.
    """
    if not torch.is_grad_enabled():
        return quantized_values(x, step, q_min, q_max, watch)
    if torch.compiler.is_compiling() and watch is not None:
        watch(x.detach().sum(dtype=torch.float32))
        watch = None
    y = _LSQ.apply(x, step, q_min, q_max, scaled, watch)
    return remember(y, partial(quantized_values, q_min=q_min, q_max=q_max), x, step)
