"""How a budget is shared between groups of images, exactly."""

from typing import List

import numpy as np


def proportional_quotas(counts: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Each group keeps its share of the budget, rounded by largest remainders.

    In integers throughout, so that equal remainders are equal: of those chance decides.

    Args:
        counts (np.ndarray): Images per group, int64, shape (G,).
        size (int): The budget, from 0 to ``counts.sum()``.
        rng (np.random.Generator): The source of chance.

    Returns:
        np.ndarray: int64, shape (G,), each at most its count; their sum is ``size``.
    """
    total = max(1, int(counts.sum()))
    quotas, remainders = np.divmod(size * counts, total)
    order = rng.permutation(len(counts))
    quotas[order[np.argsort(-remainders[order], kind='stable')][: size - quotas.sum()]] += 1
    return quotas


def even_quotas(counts: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """All groups get the same; what a small one cannot use goes to the others (CCS, Zheng et al., ICLR 2023).

    The smallest group is served first, with what is left of the budget divided by the number of groups left, rounded
    down; of equally large groups chance decides.

    Args:
        counts (np.ndarray): Images per group, int64, shape (G,).
        size (int): The budget, from 0 to ``counts.sum()``.
        rng (np.random.Generator): The source of chance.

    Returns:
        np.ndarray: int64, shape (G,), each at most its count; their sum is ``size``.
    """
    quotas = np.zeros_like(counts)
    left = size
    order = rng.permutation(len(counts))
    for served, group in enumerate(order[np.argsort(counts[order], kind='stable')]):
        quotas[group] = min(counts[group], left // (len(counts) - served))
        left -= quotas[group]
    return quotas


def members(groups: np.ndarray, counts: np.ndarray) -> List[np.ndarray]:
    """Returns the indices of the images in each group, ascending.

    Args:
        groups (np.ndarray): Group of each image, from 0 to G - 1, shape (N,). An integer type of 8 or 16 bits is
            sorted in linear time.
        counts (np.ndarray): Images per group, int64, shape (G,).

    Returns:
        List[np.ndarray]: G arrays, int64.
    """
    return np.split(np.argsort(groups, kind='stable'), np.cumsum(counts)[:-1])
