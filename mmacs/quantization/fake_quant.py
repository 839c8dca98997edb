"""Fake-quant arithmetic: integer levels, steps, and the two quantizer functions. Imports torch alone."""

import math
from contextlib import nullcontext
from typing import Any, ContextManager, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


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
    """The magnitude of a learned step or clip, away from zero, whatever the optimizer made of it."""
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


def alive(values: Tensor) -> Tensor:
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


def scale_gradient(x: Tensor, scale: float) -> Tensor:
    """``x``, whose gradient is multiplied by ``scale``."""
    return x.detach() + (x - x.detach()) * scale


def lsq_initial_step(mean_abs: Tensor, q_max: int) -> Tensor:
    """Initial LSQ step size, ``2 E|v| / sqrt(q_max)`` (Esser et al. 2020, section 2.1).

    Where the mean is zero (a dead channel, an all-zero activation) that formula gives a step of zero, from which
    nothing can learn: see :func:`alive`.

    Args:
        mean_abs (Tensor): Mean absolute value of the elements that share one step, any shape.
        q_max (int): Highest integer level, at least 1.

    Returns:
        Tensor: Step sizes, all positive, of the same shape.
    """
    return alive(2 * mean_abs / math.sqrt(q_max))


def _may_read(step: Tensor) -> bool:
    """Whether a step may become a Python number: on a GPU that stalls the stream, in a compiled graph it breaks it."""
    return not step.is_cuda and not torch.compiler.is_compiling()


def per_element(step: Tensor, x: Tensor) -> Tensor:
    """Steps of shape (1,) or (x.shape[0],) as they broadcast against values."""
    return step.reshape(-1, *[1] * (x.dim() - 1)) if step.numel() > 1 else step


def _rounded(x: Tensor, step: Tensor, q_min: int, q_max: int) -> Tensor:
    """:func:`round_to_levels` written out, without gradient."""
    if torch.compiler.is_compiling():  # a compiled Function that works in place has a gradient of zero (torch 2.11)
        step = per_element(step, x)
        return (x * step.reciprocal()).round().clamp(q_min, q_max) * step
    if step.numel() == 1 and _may_read(step):
        scale, inverse = step.item(), step.reciprocal().item()
    else:
        scale = per_element(step, x)
        inverse = scale.reciprocal()
    return torch.mul(x, inverse).round_().clamp_(q_min, q_max).mul_(scale)


class _RoundToLevels(torch.autograd.Function):
    """:func:`round_to_levels` for compilers, with the gradient of torch's kernels."""

    @staticmethod
    def forward(ctx, x: Tensor, step: Tensor, q_min: int, q_max: int) -> Tensor:
        ctx.save_for_backward(x, step)
        ctx.levels = q_min, q_max
        return _rounded(x, step, q_min, q_max)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tuple[Tensor, None, None, None]:
        x, step = ctx.saved_tensors
        q_min, q_max = ctx.levels
        level = (x * per_element(step, x).reciprocal()).round()
        return grad.masked_fill((level < q_min) | (level > q_max), 0), None, None, None


def round_to_levels(x: Tensor, step: Tensor, q_min: int, q_max: int) -> Tensor:
    """``s * round(clip(x / s, q_min, q_max))`` by torch's native fake-quant kernels, or bit-equal faster ones.

    Their gradient passes straight through where the rounded value lies in the range; the step gets none.

    Args:
        x (Tensor): Values, float32; its first axis is the channel axis if ``step`` has several entries.
        step (Tensor): Positive step sizes, float32, shape (1,) or (x.shape[0],).
        q_min (int): Lowest integer level.
        q_max (int): Highest integer level.

    Returns:
        Tensor: Fake-quantized values, same shape and dtype as ``x``.
    """
    step = step.detach()
    if torch.compiler.is_compiling() and torch.is_grad_enabled():
        return _RoundToLevels.apply(x, step, q_min, q_max)
    # Bit-equal to torch's kernels, which break a compiled graph, and are scalar on a CPU: 16 times slower
    if torch.compiler.is_compiling() or not (step.is_cuda or torch.is_grad_enabled()):
        return _rounded(x, step, q_min, q_max)
    if step.numel() > 1:
        # a floating-point zero point is not range-checked, which would stall a GPU
        return torch.fake_quantize_per_channel_affine(x, step, torch.zeros_like(step), 0, q_min, q_max)
    if _may_read(step):
        return torch.fake_quantize_per_tensor_affine(x, step.item(), 0, q_min, q_max)
    zero_point = torch.zeros(1, dtype=torch.int32, device=step.device)
    return torch.fake_quantize_per_tensor_affine(x, step, zero_point, q_min, q_max)


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
    def forward(ctx, x: Tensor, step: Tensor, q_min: int, q_max: int, scaled: bool) -> Tensor:
        ctx.save_for_backward(x, step)  # not the result, which x tells
        ctx.unpacked = None
        ctx.levels = q_min, q_max
        ctx.scaled = scaled
        return round_to_levels(x, step, q_min, q_max)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tuple[Tensor, Tensor, None, None, None]:
        x, step = ctx.unpacked or ctx.saved_tensors
        ctx.unpacked = None
        q_min, q_max = ctx.levels
        n = step.numel()
        units = x * per_element(step, x).reciprocal()
        # hardtanh's backward is the one fused kernel for "pass inside a range"; it wants Python numbers.
        grad_x = torch.ops.aten.hardtanh_backward(grad, units, q_min, q_max)
        # The paper's sum of grad * (round(x / s) - x / s | q_min | q_max): inside, where grad_x is grad, and outside
        grad_step = _inner_products(grad_x, units.round().sub_(units), n)
        grad_step = grad_step + _inner_products(grad - grad_x, units.clamp_(q_min, q_max), n)
        if ctx.scaled:
            grad_step = grad_step / math.sqrt(x.numel() / n * q_max)
        return grad_x, grad_step, None, None, None


def _inner_products(a: Tensor, b: Tensor, n: int) -> Tensor:
    """Inner products of the n equal parts of two tensors along their first axis, float32, shape (n,)."""
    return (a * b).reshape(n, -1).sum(1)  # no dot or matrix product, whose inputs autocast or TF32 would round


def recompute_in_backward(*quantized: Tensor) -> ContextManager[Any]:
    """Operations inside save no results of :func:`lsq_quantize`: backward computes them again.

    Those are as large as the values that they come from, which are saved already, and quick to compute again. What
    something else has returned is saved as ever.

    Example::

        x, weight = input_quantizer(x), weight_quantizer(weight)
        with recompute_in_backward(x, weight):
            y = conv2d(x, weight)
    """
    if torch.compiler.is_compiling():  # compilers decide by themselves what to compute again
        return nullcontext()
    nodes = {y.untyped_storage().data_ptr(): y.grad_fn for y in quantized if isinstance(y.grad_fn, _LSQ._backward_cls)}
    if not nodes:
        return nullcontext()

    def pack(saved: Tensor) -> Any:
        node = nodes.get(saved.untyped_storage().data_ptr())
        # a view, such as the transposed weight of a linear layer, has a layout of its own
        return saved if node is None else (node, saved.size(), saved.stride(), saved.storage_offset())

    return torch.autograd.graph.saved_tensors_hooks(pack, _unpack)


def _unpack(packed: Any) -> Tensor:
    if isinstance(packed, Tensor):
        return packed
    node, *layout = packed
    # once in a backward, as activation checkpointing demands: also for the node's own backward, which comes later
    node.unpacked = node.unpacked or node.saved_tensors
    x, step = node.unpacked
    with torch.no_grad():
        return round_to_levels(x, step, *node.levels).as_strided(*layout)


def lsq_quantize(x: Tensor, step: Tensor, q_min: int, q_max: int, scaled: bool = True) -> Tensor:
    """Fake-quantize with a learned step size: ``s * round(clip(x / s, q_min, q_max))``.

    Forward is that of torch's native fake-quant kernels, bit for bit. Backward is equations 3 and 5 of Esser et al.
    2020 (LSQ): with respect to ``x`` 1 inside the range, 0 at its ends and outside; with respect to the step
    ``round(x/s) - x/s`` inside, ``q_min`` below and ``q_max`` above, times ``1 / sqrt(n * q_max)`` where n counts the
    elements **that share one step**. "Inside" is decided before rounding, as in the paper; torch's own learnable
    fake-quant op decides it after rounding, which gives other gradients for values up to half a step outside the range.
    Only ``x`` and the step are kept for backward; see :func:`recompute_in_backward` for what comes after.

    Args:
        x (Tensor): Values, float32; its first axis is the channel axis if ``step`` has several entries.
        step (Tensor): Positive step sizes, float32, shape (1,) or (x.shape[0],).
        q_min (int): Lowest integer level.
        q_max (int): Highest integer level, at least 1.
        scaled (bool): Whether the step's gradient is scaled by ``1 / sqrt(n * q_max)``, which is LSQ's own.

    Returns:
        Tensor: Fake-quantized values, same shape and dtype as ``x``.
    """
    if not torch.is_grad_enabled():
        return round_to_levels(x.contiguous(), step, q_min, q_max)
    return _LSQ.apply(x.contiguous(), step, q_min, q_max, scaled)
