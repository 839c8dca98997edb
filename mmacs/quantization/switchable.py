"""One set of weights at several bit-widths: ``bit_widths`` of a recipe, and the switch between them."""

from contextlib import contextmanager
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmacs.quantization.layers import QuantizedLayer
from mmacs.quantization.participants import participants, start_bits
from mmacs.quantization.quantizers import Quantizer
from mmacs.quantization.width import add_widths, current_width, set_width, widths_of
from mmacs.utils.checks import is_whole
from mmacs.utils.errors import MmacsError


def make_switchable(model: nn.Module, bit_widths: Sequence[int]) -> None:
    """Give a converted model further bit-widths, in place; the widest is the one that it has.

    Steps and flags of the quantizers that have the recipe's main bits are of each width's own, as are the running
    statistics of BatchNorm. Weights, biases, scales and offsets of norms, and the other quantizers are one for all.

    Args:
        model (nn.Module): The model, with its recipe and without ranges.
        bit_widths (Sequence[int]): All of them.

    Raises:
        MmacsError: If the widest is not the main bit-width of the recipe's weights and activations, nothing has that,
            or a quantizer can't change its bits.
    """
    widest, *others = sorted(bit_widths, reverse=True)
    main = start_bits(model.recipe)
    if any(bits != widest for bits in main.values()):
        found = ' and '.join(f'{kind} {bits}' for kind, bits in main.items())
        raise MmacsError(
            f'bit_widths={list(bit_widths)}: the widest must be the main bit-width of the recipe, whose bits are '
            f'{found}: give those of both as bits={widest}, or change bit_widths'
        )
    names = [name for group in participants(model).values() for name in group]
    if not names:
        raise MmacsError('bit_widths: the recipe leaves no quantizer its main bits, so that there is nothing to switch')
    for name in names:
        quantizer = model.get_submodule(name)
        kind = type(quantizer).__name__
        if quantizer.replaces_weight or quantizer.follows_run:
            raise MmacsError(f'{name} is a {kind}, which trains for one bit-width alone: leave out bit_widths')
        add_widths(quantizer, others)
    for module in list(model.modules()):
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            add_widths(module, others)


def bit_widths(model: nn.Module) -> Tuple[int, ...]:
    """Returns the bit-widths that a model can be switched to, the widest first; none of most models."""
    return next((_widths_of_quantizer(owner) for owner in _owners(model) if isinstance(owner, Quantizer)), ())


def bits_set(model: nn.Module) -> Optional[int]:
    """Returns the bit-width that is set; None of a model that has one alone."""
    found = bit_widths(model)
    return next(map(current_width, _owners(model))) or found[0] if found else None


def set_bits(model: nn.Module, bits: int) -> nn.Module:
    """Switch a model to another of its bit-widths, in place: for inference, freezing and export.

    A checkpoint holds all widths, whichever is set when it is written or loaded.

    Args:
        model (nn.Module): A model whose recipe has ``bit_widths``, see :class:`~.recipe.Recipe`.
        bits (int): One of them.

    Returns:
        nn.Module: ``model`` itself.

    Raises:
        MmacsError: If the model has no such bit-width, or is frozen.
    """
    found = bit_widths(model)
    if not found:
        raise MmacsError(
            f'this {type(model).__name__} has one bit-width alone: train it with a recipe that has several, such as '
            f'dict(preset="w8a8", bit_widths=[8, 4, 2])'
        )
    if not is_whole(bits) or bits not in found:
        raise MmacsError(f'bits must be one of the bit-widths of the model, {", ".join(map(str, found))}, got {bits!r}')
    if any(isinstance(module, QuantizedLayer) and module.frozen for module in model.modules()):
        raise MmacsError('a frozen model keeps its bit-width: load the checkpoint, set_bits, and freeze then')
    _set(list(_owners(model)), bits)
    return model


@contextmanager
def at_bits(model: nn.Module, bits: Optional[int]) -> Iterator[None]:
    """Another bit-width inside, the widest for None; nothing happens to a model that has one alone."""
    owners = list(_owners(model))
    before = next(map(current_width, owners), None)
    _set(owners, bits)
    try:
        yield
    finally:
        _set(owners, before)


def at_each_bits(model: nn.Module, function: Callable[[], Any]) -> List[Any]:
    """Returns what a function gives with each bit-width set, the widest first; of a model with one, once."""
    results = []
    for bits in bit_widths(model) or (None,):
        with at_bits(model, bits):
            results.append(function())
    return results


def _owners(model: nn.Module) -> Iterator[nn.Module]:
    return (module for module in model.modules() if widths_of(module))


def _widths_of_quantizer(owner: Quantizer) -> Tuple[int, ...]:
    widths = widths_of(owner)
    widest = next((width.plain['bits'] for width in widths if width.is_set), owner.bits)
    return (widest, *(width.bits for width in widths))


def _set(owners: Sequence[nn.Module], bits: Optional[int]) -> None:
    for owner in owners:
        set_width(owner, bits)
