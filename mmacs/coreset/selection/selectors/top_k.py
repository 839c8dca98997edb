"""The images of highest score."""

from typing import Optional

import numpy as np
from scipy.sparse import csr_matrix

from mmacs.coreset.selection.selectors.base import Selection, Selector
from mmacs.utils.registry import SELECTORS


@SELECTORS.register_module()
class TopK(Selector):
    """The images of highest score, as ACS chooses them (Huang et al. 2024, arXiv 2306.07215)."""

    def select(
        self, scores: np.ndarray, size: int, rng: np.random.Generator, labels: Optional[csr_matrix] = None
    ) -> Selection:
        """See :meth:`Selector.select`. Only ties are left to chance, so that there are no probabilities."""
        return Selection(top_k(scores, size, rng))


def top_k(scores: np.ndarray, size: int, rng: Optional[np.random.Generator] = None) -> np.ndarray:
    """Returns the indices of the ``size`` highest scores, ascending; of equal scores chance decides.

    Args:
        scores (np.ndarray): Finite, shape (N,).
        size (int): From 0 to N.
        rng (np.random.Generator, optional): The source of chance; None is one of seed 0.

    Returns:
        np.ndarray: int64, shape (size,).
    """
    if size == 0:
        return np.empty(0, dtype=np.int64)
    scores = np.asarray(scores)
    # a partition finds the lowest score that is chosen in O(N), and in less memory than an order of all images
    lowest = np.partition(scores, len(scores) - size)[len(scores) - size]
    chosen = scores > lowest
    tied = np.flatnonzero(scores == lowest)
    left = size - np.count_nonzero(chosen)
    if left < len(tied):
        rng = np.random.default_rng(0) if rng is None else rng
        tied = rng.choice(tied, left, replace=False, shuffle=False)
    chosen[tied] = True
    return np.flatnonzero(chosen)
