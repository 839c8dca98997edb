"""How a budget is shared between groups of images, exactly."""

from typing import List, Tuple

import numpy as np

from mmacs.coreset.selection.selectors.systematic import systematic_sample


def proportional_quotas(counts: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Each group keeps its share of the budget, rounded down or up at random.

    A share of 3.2 becomes 4 in a fifth of the draws, and 3 in the others: a group whose share is below 1 has its turn.

    Args:
        counts (np.ndarray): Images per group, int64, shape (G,).
        size (int): The budget, from 0 to ``counts.sum()``.
        rng (np.random.Generator): The source of chance.

    Returns:
        np.ndarray: int64, shape (G,), each at most its count; their sum is ``size``.
    """
    total = max(1, int(counts.sum()))
    quotas, remainders = np.divmod(size * counts, total)
    quotas[systematic_sample(remainders / total, rng)] += 1
    return quotas


def floored_quotas(
    counts: np.ndarray, floors: np.ndarray, size: int, rng: np.random.Generator
) -> Tuple[np.ndarray, np.ndarray]:
    """Each group first gets its floor, as far as the budget goes, and keeps its share of what is left.

    Args:
        counts (np.ndarray): Images per group, int64, shape (G,).
        floors (np.ndarray): Images that a group gets at least, int64, at most its count, shape (G,).
        size (int): The budget, from 0 to ``counts.sum()``.
        rng (np.random.Generator): The source of chance.

    Returns:
        Tuple[np.ndarray, np.ndarray]: Quotas, int64, each at most its count, whose sum is ``size``; and the probability
        that a group gets any image, given its floor; both of shape (G,).
    """
    least = even_quotas(floors, min(size, int(floors.sum())), rng)
    left, others = size - int(least.sum()), counts - least
    shares = least + left * others / max(1, int(others.sum()))
    return least + proportional_quotas(others, left, rng), np.minimum(shares, 1)


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
