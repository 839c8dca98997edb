"""Functions of which backward computes the inputs again instead of keeping them. Imports torch alone.

A fake-quantized tensor is as large as the values that it comes from, which are kept anyway, and quick to compute. So
each carries how it came about (:func:`remember`), and a convolution of it keeps that instead (:func:`recomputed`). What
a quantizer computes on its way is not kept either (:func:`keeping_inputs`).
"""

from typing import Any, Callable, ContextManager, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Origin(NamedTuple):
    """How to compute a tensor: ``function(*tensors)``, without gradient and autocast.

    ``version`` is the tensor's after that.
    """

    function: Callable[..., Any]
    tensors: Tuple[Tensor, ...]
    version: int = 0


def remember(y: Tensor, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """``y``, which knows from now on that it is ``function(*tensors)``."""
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        y.origin = Origin(function, tuple(tensor.detach() for tensor in tensors), y._version)
    return y


def derive(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """``function(x)``, which knows how it came about if ``x`` does."""
    y, origin = function(x), _remembered(x)
    if origin is None or y is x:
        return y
    return remember(y, lambda *tensors: function(origin.function(*tensors)), *origin.tensors)


def derive_once(x: Tensor) -> Tensor:
    """``x``; what it is the input of several times computes it again once for all, if it knows how it came about."""
    origin = _remembered(x)
    if origin is not None:
        x.origin = origin._replace(function=_Once(origin.function))
    return x


def recomputed(function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """``function(*inputs)``, of which backward keeps not the inputs, but what they were computed from.

    Where that is known of none, all is autograd's. Args and result as of :func:`keeping_inputs`.
    """
    if torch.compiler.is_compiling() or not any(isinstance(x, Tensor) and _remembered(x) for x in inputs):
        return function(*inputs)
    return keeping_inputs(function, *inputs)


def keeping_inputs(function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """``function(*inputs)``, of which backward keeps the inputs alone, or what they were computed from.

    It can be differentiated once. Its gradient is ``function.gradients(grad, inputs, needed)`` if it has this method,
    which returns one gradient, or None, for each input; else the function runs once more, under autograd.

    Args:
        function (Callable): Returns one tensor; without side effects, random numbers and trainable tensors of its own.
        *inputs: Tensors, fake-quantized or any others, and whatever else the function takes.

    Returns:
        Tensor: The result.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():  # compilers decide by themselves what to keep
        return function(*inputs)
    origins = [_origin(x) for x in inputs]
    return _Recomputed.apply(function, origins, *inputs, *(tensor for origin in origins for tensor in origin.tensors))


def _remembered(x: Tensor) -> Optional[Origin]:
    """Returns how a tensor came about, if that is known and it was not written to since."""
    origin = getattr(x, 'origin', None)
    return origin if origin is not None and origin.version == x._version else None


def _origin(x: Any) -> Origin:
    """Returns how to compute an input; what nothing is known of comes from itself."""
    if not isinstance(x, Tensor):
        return Origin(lambda: x, ())
    return _remembered(x) or Origin(lambda same: same, (x.detach(),))


class _Once:
    """A function that is called ``calls`` times in each backward, with the same tensors, but runs in the first alone.

    Its result is held until the last call, or until the graph is freed if some calls never come.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self.result: Optional[Tensor] = None
        self.calls = self.made = 0

    def __call__(self, *tensors: Tensor) -> Tensor:
        result = self.function(*tensors) if self.result is None else self.result
        self.made = (self.made + 1) % max(self.calls, 1)  # what derives from it calls it uncounted
        self.result = result if self.made else None
        return result


class _Recomputed(torch.autograd.Function):
    """See :func:`recomputed`."""

    @staticmethod
    def forward(ctx, function: Callable[..., Tensor], origins: Sequence[Origin], *tensors: Any) -> Tensor:
        inputs = [x.detach() if isinstance(x, Tensor) else x for x in tensors[: len(origins)]]
        ctx.save_for_backward(*tensors[len(origins) :])
        ctx.function = function
        ctx.origins = [(origin.function, len(origin.tensors)) for origin in origins]
        for origin in origins:
            if isinstance(origin.function, _Once):
                origin.function.calls += 1
        ctx.device_type = next(x.device.type for x in inputs if isinstance(x, Tensor))
        ctx.autocast = _autocast_state(ctx.device_type)
        y = function(*inputs)
        # autograd forbids to write in place, as a ReLU may, to a view that comes out of a function of one's own
        return torch.ops.aten._unsafe_view(y, y.shape) if y._is_view() else y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tuple[Any, ...]:
        kept, inputs = list(ctx.saved_tensors), []
        count = len(kept)
        needed = ctx.needs_input_grad[2 : 2 + len(ctx.origins)]
        with torch.autocast(ctx.device_type, enabled=False):  # as quantizers run
            for function, number in ctx.origins:
                inputs.append(function(*kept[:number]))
                del kept[:number]
        with ctx.autocast():
            gradients = getattr(ctx.function, 'gradients', None)
            found = (
                _by_autograd(ctx.function, grad, inputs, needed)
                if gradients is None
                else gradients(grad, inputs, needed)
            )
        return (None, None, *found, *(None,) * count)


def _by_autograd(
    function: Callable[..., Tensor], grad: Tensor, inputs: Sequence[Any], needed: Sequence[bool]
) -> List[Optional[Tensor]]:
    """Returns the gradients of a function, which runs once more."""
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_(need) if isinstance(x, Tensor) else x for x, need in zip(inputs, needed)]
        y = function(*leaves)
    found = iter(torch.autograd.grad(y, [leaf for leaf, need in zip(leaves, needed) if need], grad, allow_unused=True))
    return [next(found) if need else None for need in needed]


def _autocast_state(kind: str) -> Callable[[], ContextManager[Any]]:
    """Makes contexts in which autocast is as it is now for a type of device."""
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    return lambda: torch.autocast(kind, dtype, enabled, cache_enabled=False)
