"""Histograms, also in MMEngine's deterministic runs on a GPU, which refuse torch's own. Imports torch alone."""

import torch
from torch import Tensor


def bin_counts(values: Tensor, low: float, high: float, bins: int) -> Tensor:
    """Returns how many values lie in each of some bins of equal width.

    Args:
        values (Tensor): Finite, float32, any shape; those outside of the range are counted in the outermost bins.
        low (float): Lower end of the range.
        high (float): Upper end, above ``low``.
        bins (int): Number of bins.

    Returns:
        Tensor: int64, shape (bins,).
    """
    places = ((values.clamp(low, high) - low) * (bins / (high - low))).long().clamp_(0, bins - 1)
    return torch.bincount(places.reshape(-1), minlength=bins)
