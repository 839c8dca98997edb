"""Sensitivities of layers from the gradients of their weights' bits: BMPQ (Kundu et al. 2022, arXiv 2112.13843).

The run around it is not here. What the abstract leaves open is our reading, and marked so. Imports torch alone.
"""

from typing import Dict, List, Mapping, Sequence

import torch
from torch import Tensor

from mmacs.quantization.fake_quant import per_element


def bit_gradients(gradient: Tensor, step: Tensor, bits: int) -> Tensor:
    """Sum over the weights of a layer of ``|dL/db_i|``, for each bit.

    A weight on its level is ``s * (-2^(b-1) b_(b-1) + sum_(i < b-1) 2^i b_i)``, two's complement, so that
    ``dL/db_i = dL/dw * s * 2^i``, and the highest bit has the other sign.

    Args:
        gradient (Tensor): dL/dw of the rounded weights, with the output channel as axis 0.
        step (Tensor): Step sizes s, shape (1,) or (output channels,).
        bits (int): Bit-width b.

    Returns:
        Tensor: Shape (bits,), float32, the lowest bit first.
    """
    lowest = (gradient.float().abs() * per_element(step, gradient)).sum()
    return lowest * torch.exp2(torch.arange(bits, device=gradient.device))


def range_gradient(gradient: Tensor, step: Tensor, bits: int) -> Tensor:
    """:func:`bit_gradients` of the bit above the highest, which is worth as much as the range of all levels.

    Unlike those of bits, it does not depend on how many bits a layer has at the moment; our reading.

    Returns:
        Tensor: A scalar.
    """
    return bit_gradients(gradient, step, bits)[0] * 2**bits


def normalised(sensitivities: Mapping[str, float]) -> Dict[str, float]:
    """Sensitivities of an epoch as shares of their sum, so that an epoch of large gradients counts as any other."""
    total = sum(sensitivities.values())
    return {layer: value / total if total > 0 else 1 / len(sensitivities) for layer, value in sensitivities.items()}


def averaged(epochs: Sequence[Mapping[str, float]]) -> Dict[str, float]:
    """Mean over epochs, by layer."""
    return {layer: sum(epoch[layer] for epoch in epochs) / len(epochs) for layer in epochs[0]}


def losses_of_bits(sensitivities: Mapping[str, float], candidates: Sequence[int]) -> Dict[str, Dict[int, float]]:
    """What each layer loses at each bit-width: the gradient of the lowest bit that it would have.

    To first order the loss changes by no more than that if each weight moves by one level; with one bit more the
    levels are half as far apart. That the solver minimises the sum of these is our reading.

    Args:
        sensitivities (Mapping[str, float]): :func:`range_gradient` by layer, in any unit.
        candidates (Sequence[int]): Bit-widths.

    Returns:
        Dict[str, Dict[int, float]]: By layer and bit-width, for :func:`~.analysis.bit_widths.choose`.
    """
    return {layer: {bits: value * 2.0**-bits for bits in candidates} for layer, value in sensitivities.items()}


def checked_sum(values: List[Tensor]) -> Tensor:
    """Sum of scalars without those that are NaN or Inf, as a loss scale's skipped steps leave them."""
    return torch.stack(values).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).sum()
