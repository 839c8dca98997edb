"""How score columns of a whole data set are brought to one scale."""

from typing import Optional

import numpy as np
from scipy.stats import rankdata

from mmacs.utils.errors import unknown_name

MAX_STRATA = 8  # of object counts


def normalise(scores: np.ndarray, how: str, groups: Optional[np.ndarray] = None) -> np.ndarray:
    """Bring one score column of the whole data set to a common scale.

    Args:
        scores (np.ndarray): Finite scores, shape (N,).
        how (str): ``'rank'``: ranks scaled to (0, 1), equal scores sharing their mean rank; ``'minmax'``: affinely to
            [0, 1]; ``'none'``: as they are.
        groups (np.ndarray, optional): Integers, shape (N,): images of one number are brought to scale among
            themselves.

    Returns:
        np.ndarray: float64, shape (N,). All equal scores become 0 under ``'minmax'`` and 0.5 under ``'rank'``.

    Raises:
        MmacsError: If ``how`` is unknown.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if how == 'none':
        return scores
    if groups is not None:
        scaled = np.empty_like(scores)
        for group in np.unique(groups):
            members = groups == group
            scaled[members] = normalise(scores[members], how)
        return scaled
    if how == 'rank':
        return (rankdata(scores) - 0.5) / len(scores)
    if how == 'minmax':
        span = np.ptp(scores)
        return (scores - scores.min()) / span if span > 0 else np.zeros_like(scores)
    raise unknown_name('normalisation', how, ('rank', 'minmax', 'none'))


def count_strata(counts: np.ndarray, max_strata: int = MAX_STRATA, min_images: int = 32) -> np.ndarray:
    """Group images with about as many objects, by quantiles of their counts.

    Args:
        counts (np.ndarray): Objects of each image, int, shape (N,).
        max_strata (int): Greatest number of strata.
        min_images (int): About how many images a stratum has at least.

    Returns:
        np.ndarray: Number of the stratum, from few objects to many, int64, shape (N,).
    """
    number = max(1, min(max_strata, len(counts) // min_images))
    edges = np.quantile(counts, np.linspace(0, 1, number + 1)[1:-1])
    return np.searchsorted(edges, counts, side='left')


def comparable_groups(ages: Optional[np.ndarray], counts: Optional[np.ndarray]) -> Optional[np.ndarray]:
    """Groups images whose scores may be compared: of one age, and with about as many objects.

    Args:
        ages (np.ndarray, optional): Round in which each image was scored, int, shape (N,); None: of one age.
        counts (np.ndarray, optional): Objects of each image, int, shape (N,); None: they don't matter.

    Returns:
        np.ndarray: Number of the group, int64, shape (N,); None if all images may be compared.
    """
    if ages is None or np.ptp(ages) == 0:
        return None if counts is None else count_strata(counts)
    ages = ages.astype(np.int64)
    if counts is None:
        return ages
    groups = np.empty_like(ages)
    for age in np.unique(ages):
        own = ages == age
        groups[own] = age * MAX_STRATA + count_strata(counts[own])
    return groups
