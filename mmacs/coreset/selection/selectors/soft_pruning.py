"""Low scores are pruned at random, high scores never."""

from typing import Optional

import numpy as np
from scipy.sparse import csr_matrix

from mmacs.coreset.selection.selectors.base import Selection, Selector
from mmacs.utils.registry import SELECTORS


@SELECTORS.register_module()
class SoftPruning(Selector):
    """InfoBatch (Qin et al., ICLR 2024, arXiv 2303.04947) at a fixed budget.

    Images at or above the threshold of :func:`soft_threshold`, the mean score where the budget allows, are all chosen;
    of the others as many as the budget leaves, at random. The paper fixes the share that it prunes below the mean; here
    it follows from the budget. Probabilities are 1 and that share.
    """

    redraw = True

    def select(
        self, scores: np.ndarray, size: int, rng: np.random.Generator, labels: Optional[csr_matrix] = None
    ) -> Selection:
        """See :meth:`Selector.select`."""
        chosen = scores >= soft_threshold(scores, size)
        below = np.flatnonzero(~chosen)
        num_drawn = size - (len(scores) - len(below))
        drawn = rng.choice(below, num_drawn, replace=False, shuffle=False)
        chosen[drawn] = True
        probabilities = np.ones(len(scores))
        probabilities[drawn] = num_drawn / max(1, len(below))
        return Selection(np.flatnonzero(chosen), probabilities[chosen])


def soft_threshold(scores: np.ndarray, size: int) -> float:
    """The score from which on images are always chosen.

    It is the mean score. While more images than the budget lie at or above it, it rises to their mean. If they all
    have the same score, none of them stands out, and it is infinite.

    Args:
        scores (np.ndarray): Finite, shape (N,).
        size (int): The budget, from 0 to N.

    Returns:
        float: At most ``size`` scores are at or above it; -inf if the budget buys all images.
    """
    threshold, above = -np.inf, scores
    while len(above) > size:
        threshold = above.mean()
        higher = above[above >= threshold]
        if len(higher) == len(above):
            return np.inf
        above = higher
    return threshold
