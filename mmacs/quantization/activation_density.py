"""Bit-widths from the share of non-zero activations (Vasquez et al. 2021, arXiv 2101.04354), without the run around it.

Our reading of the abstract, which defines activation density as "the proportion of non-zero activations in a layer".
"""

import math
from typing import Dict, Iterable, Mapping

import torch
from torch import Tensor


class DensityCount:
    """Counts the non-zero values of what layers read; on a GPU nothing waits for it."""

    def __init__(self) -> None:
        self._nonzero: Dict[str, Tensor] = {}
        self._total: Dict[str, int] = {}

    def see(self, layer: str, x: Tensor) -> None:
        """Count the values of one more input of a layer, before they are rounded."""
        nonzero = torch.count_nonzero(x.detach())
        self._nonzero[layer] = self._nonzero[layer] + nonzero if layer in self._nonzero else nonzero
        self._total[layer] = self._total.get(layer, 0) + x.numel()

    def counts(self, layers: Iterable[str], device: torch.device) -> Tensor:
        """Returns the non-zero values and all values, shape (2, number of layers), int64; 0 for layers not seen."""
        zero = torch.zeros((), dtype=torch.int64, device=device)
        nonzero = torch.stack([self._nonzero.get(layer, zero) for layer in layers])
        return torch.stack([nonzero, torch.tensor([self._total.get(layer, 0) for layer in layers], device=device)])


def densities(layers: Iterable[str], counts: Tensor) -> Dict[str, float]:
    """Share of non-zero values, from 0 to 1, by layer; 1 of a layer that read nothing, of which nothing is known."""
    return {layer: nonzero / total if total else 1.0 for layer, nonzero, total in zip(layers, *counts.cpu().tolist())}


def has_saturated(before: Mapping[str, float], now: Mapping[str, float], tolerance: float) -> bool:
    """Returns whether no layer's density has moved by more than ``tolerance``."""
    return all(abs(now[layer] - before[layer]) <= tolerance for layer in now)


def bits_of_densities(bits: Mapping[str, int], density: Mapping[str, float], min_bits: int) -> Dict[str, int]:
    """``round(bits * density)`` of each layer, halves upwards, but no fewer than ``min_bits``, nor more than before."""
    return {
        layer: min(before, max(min_bits, math.floor(before * density[layer] + 0.5))) for layer, before in bits.items()
    }
