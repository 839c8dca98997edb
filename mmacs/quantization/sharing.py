"""Layers that are applied several times in one forward, as a dense head's are once per pyramid level.

Forward hooks mark where a forward of the model, and of the head within it, begins and ends. In between, calls are
counted, so that each level finds its own activation step and its own BatchNorm, and the fake-quantized weight is
computed once, as is a feature map that several read from one quantizer (:mod:`~.one_per_tensor`). Both need marks:
MMDetection calls the head's ``forward`` past its hooks in one mode, and the head alone is called by scorers.

Activation checkpointing works where the head as a whole is recomputed through its hooks,
``torch.utils.checkpoint.checkpoint(head, features)``. A part of it can't be: levels are recomputed in an order of
autograd's own, and nothing tells which one it is. As the end of a forward leaves no level due, that ends in an error,
never in another level's step.
"""

from contextlib import contextmanager
from typing import Any, Callable, Iterator, List, Optional, Tuple

from torch import nn

from mmacs.quantization.batch_norm import PerLevelBatchNorm2d
from mmacs.quantization.layers import QuantizedLayer
from mmacs.quantization.quantizers import Quantizer, SharedQuantizer, source_of
from mmacs.utils.errors import MmacsError
from mmacs.utils.libraries import load_adapters

# What counts its calls within one forward: ``calls`` so far, of ``num_levels`` at most.
_COUNTING = (Quantizer, SharedQuantizer, PerLevelBatchNorm2d)


_LEVEL_COUNTS: List[Callable[[nn.Module], int]] = []


def register_level_count(count: Callable[[nn.Module], int]) -> Callable[[nn.Module], int]:
    """Declare what tells the number of pyramid levels of a library's heads, 1 for all other modules."""
    _LEVEL_COUNTS.append(count)
    return count


def num_pyramid_levels(head: nn.Module) -> int:
    """Returns the number of pyramid levels that a dense head applies its layers to, 1 for any other module."""
    return max((count(head) for count in _LEVEL_COUNTS), default=1)


def head_of(model: nn.Module, name: str) -> Optional[nn.Module]:
    """Returns the innermost module around a layer that applies it to several pyramid levels, or None."""
    path = name.split('.')
    around = (model.get_submodule('.'.join(path[:end])) for end in range(len(path) - 1, 0, -1))
    return next((module for module in around if num_pyramid_levels(module) > 1), None)


def mark_forward(owner: nn.Module) -> None:
    """Have a module mark the begin and end of its forward for what is inside it, once however often called.

    Call it again after anything inside was replaced. A layer by itself is not marked: its forward is one of the calls
    that are counted.
    """
    if isinstance(owner, (QuantizedLayer, *_COUNTING)):
        return
    owner.shared_inside = None
    if _begin not in owner._forward_pre_hooks.values():
        owner.register_forward_pre_hook(_begin)
        owner.register_forward_hook(_end, always_call=True)


def mark_per_level_norms(model: nn.Module) -> None:
    """Have a model, quantized or not, and its heads mark their forwards for the :class:`PerLevelBatchNorm2d` inside.

    Args:
        model (nn.Module): Any model; one without such layers stays as it is.

    Raises:
        MmacsError: If a head has another number of pyramid levels than its layer.
    """
    load_adapters(model)
    for name, norm in model.named_modules():
        if not isinstance(norm, PerLevelBatchNorm2d):
            continue
        mark_forward(model)
        head = head_of(model, name)
        if head is not None:
            levels = num_pyramid_levels(head)
            if levels != norm.num_levels:
                raise MmacsError(f'{name} has num_levels={norm.num_levels}, but its head has {levels} pyramid levels')
            mark_forward(head)


def _shared_inside(owner: nn.Module) -> Tuple[nn.Module, ...]:
    """Shared layers and counting modules inside a marked module, collected once.

    A plain tuple in the module's ``__dict__``: deepcopy and pickle map it to the copies.
    """
    if owner.shared_inside is None:
        owner.shared_inside = tuple(
            module
            for module in owner.modules()
            if (isinstance(module, QuantizedLayer) and module.shared)
            or (isinstance(module, _COUNTING) and module.num_levels > 1)
            or _is_read_by_several(module)
        )
    return owner.shared_inside


def _is_read_by_several(module: nn.Module) -> bool:
    return isinstance(module, Quantizer) and max(module.reads) > 1


def _begin(owner: nn.Module, args: Any) -> None:
    for module in _shared_inside(owner):
        if isinstance(module, QuantizedLayer):
            module.weights_of_this_forward = {}
        else:
            module.calls = 0
        if _is_read_by_several(module):
            module.values_of_this_forward = {}


def _end(owner: nn.Module, args: Any, output: Any) -> None:
    for module in _shared_inside(owner):
        if isinstance(module, QuantizedLayer):
            module.weights_of_this_forward = None
        else:
            module.calls = module.num_levels
        if _is_read_by_several(module):
            module.values_of_this_forward = None


@contextmanager
def values_of_its_own(block: nn.Module) -> Iterator[None]:
    """Inside, what a block keeps of tensors that several read is its own, as when it is recomputed in backward."""
    sources = {source_of(module) for module in block.modules()}
    kept = [(source, source.values_of_this_forward) for source in sources if _is_read_by_several(source)]
    for source, _ in kept:
        source.values_of_this_forward = {}
    try:
        yield
    finally:
        for source, values in kept:
            source.values_of_this_forward = values
