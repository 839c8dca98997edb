"""Bit-widths learned during training: AdaQAT (Gernigon et al. 2024, arXiv 2404.16876), without the run around it.

One real number for the weights of the whole network and one for its activations follow a gradient; the network
computes with the next integer above. What the public summaries of the paper leave open is our reading, and marked so.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Callable, Dict, List, Mapping

from torch import nn

from mmacs.quantization.analysis.sensitivity import layers_to_choose
from mmacs.quantization.convert import quantizers
from mmacs.quantization.participants import participants


@dataclass(frozen=True)
class LearnedBits:
    """A real-valued bit-width and what is remembered of its way.

    Attributes:
        value (float): N, the real-valued bit-width.
        frozen (bool): Whether it is fixed for good.
        crossings (Dict[int, int]): How often the bits in use changed between k and k + 1, in either direction, by k.
    """

    value: float
    frozen: bool = False
    crossings: Dict[int, int] = field(default_factory=dict)

    @property
    def bits(self) -> int:
        """The bit-width in use, ceil(N)."""
        return math.ceil(self.value)

    @property
    def bits_below(self) -> int:
        """floor(N): at an integer N the bits in use, so that the difference of losses is zero there."""
        return math.floor(self.value)

    def freeze(self, fits: Callable[[int], bool]) -> 'LearnedBits':
        """Fixed at the bits in use, or at floor(N) if a budget is met by that alone."""
        lower = fits(self.bits_below) and not fits(self.bits)
        return replace(self, value=float(self.bits_below if lower else self.bits), frozen=True)

    def step(self, gradient: float, lr: float, low: int, high: int) -> 'LearnedBits':
        """One step of gradient descent.

        Args:
            gradient (float): d(objective)/dN, in units of the loss per bit.
            lr (float): Learning rate.
            low (int): Smallest N.
            high (int): Largest N.

        Returns:
            LearnedBits: What it is after the step; a frozen one stays as it is.
        """
        if self.frozen:
            return self
        moved = replace(self, value=min(max(self.value - lr * gradient, float(low)), float(high)))
        crossed = range(min(self.bits, moved.bits), max(self.bits, moved.bits))
        return replace(moved, crossings={**self.crossings, **{k: self.crossings.get(k, 0) + 1 for k in crossed}})

    def settle(self, max_crossings: int, fits: Callable[[int], bool]) -> 'LearnedBits':
        """Fix N where it goes back and forth over an integer k, at the upper of the two bit-widths.

        The upper costs more and loses less, which is our reading of what the paper does with oscillations. That a
        budget can rule it out, so that the lower is taken, or neither for now, is ours.

        Args:
            max_crossings (int): Crossings of k at which N is fixed.
            fits (Callable[[int], bool]): Whether a bit-width is within the budget.

        Returns:
            LearnedBits: A frozen one, or itself.
        """
        if self.frozen:
            return self
        for k in (self.bits, self.bits - 1):
            for bits in (k + 1, k):
                if self.crossings.get(k, 0) >= max_crossings and fits(bits):
                    return replace(self, value=float(bits), frozen=True)
        return self


def relative_cost(bits: Mapping[str, int], start: Mapping[str, int]) -> float:
    """Bit operations of the layers that take part, relative to those at the start: the product over kinds of bits.

    Args:
        bits (Mapping[str, int]): Bits in use by kind, ``'weight'`` and ``'activation'`` or one of them.
        start (Mapping[str, int]): Bits at the start of the same kinds.

    Returns:
        float: 1 at the start; a multiply-accumulate of w-bit weights and a-bit inputs counts as w * a.
    """
    return math.prod(bits[kind] / start[kind] for kind in start)


def cost_gradient(bits: Mapping[str, int], start: Mapping[str, int], target: float) -> Dict[str, float]:
    """d(hardware cost)/dN of each kind, the cost being ``max(relative cost - target, 0)`` at the bits in use.

    The paper's cost has no target, which is ``target=0``; to stop pressing where a budget is met is ours, as is the
    normalisation.

    Args:
        bits (Mapping[str, int]): See :func:`relative_cost`.
        start (Mapping[str, int]): See :func:`relative_cost`.
        target (float): Relative cost that is low enough.

    Returns:
        Dict[str, float]: Derivative per bit, by kind: the product of the others, normalised; 0 once the target is met.
    """
    cost = relative_cost(bits, start)
    return {kind: cost / bits[kind] if cost > target else 0.0 for kind in start}


def layer_participants(model: nn.Module) -> Dict[str, List[str]]:
    """Names of the quantizers that have the bit-width of a layer, where that is learned for each layer by itself.

    They are those of :func:`participants` that :func:`~.analysis.sensitivity.layers_to_choose` chooses for, too: the
    weight's, and with it those of the layer's own inputs if they have as many bits.

    Args:
        model (nn.Module): A model converted by :func:`~.convert.quantize_model`.

    Returns:
        Dict[str, List[str]]: Names by layer, the weight's first, in the model's order.
    """
    names = {quantizer: name for name, quantizer in quantizers(model)}
    taking_part = {name for of_kind in participants(model).values() for name in of_kind}
    found = {
        layer: [names[quantizer] for quantizer in chosen if names[quantizer] in taking_part]
        for layer, chosen in layers_to_choose(model).items()
    }
    return {layer: group for layer, group in found.items() if f'{layer}.weight_quantizer'.lstrip('.') in group}


def change_bits(model: nn.Module, participants: Mapping[str, List[str]], bits: Mapping[str, int]) -> None:
    """Bring all quantizers that take part to the bits of their kind, in place.

    Raises:
        MmacsError: If a quantizer cannot change its bits.
    """
    for kind, names in participants.items():
        for name in names:
            quantizer = model.get_submodule(name)
            if quantizer.bits != bits[kind]:
                quantizer.change_bits(bits[kind])
