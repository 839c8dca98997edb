"""Coverage of all scores: an even draw from strata."""

from typing import Optional

import numpy as np
from scipy.sparse import csr_matrix

from mmacs.coreset.selection.selectors.base import Selection, Selector
from mmacs.coreset.selection.selectors.quotas import even_quotas, members
from mmacs.coreset.selection.selectors.top_k import top_k
from mmacs.utils.checks import is_number, require_whole
from mmacs.utils.errors import MmacsError
from mmacs.utils.registry import SELECTORS


@SELECTORS.register_module()
class Stratified(Selector):
    """Coverage-centric selection, CCS (Zheng et al., ICLR 2023, arXiv 2210.15809).

    The images of highest score, often mislabelled, are dropped. The range of the other scores is cut into strata of
    equal width, between which the budget is shared evenly, see :func:`even_quotas`; within a stratum images are drawn
    at random. Probabilities are known: that of a stratum is its quota over its size. It is 0 for dropped images, and
    for the smallest strata if there are more of them than images in the budget.

    It needs scores as they are, of the normalisation ``'none'`` or ``'minmax'``: among ranks all strata hold the same
    number of images, and the draw is uniform.

    Args:
        hard_cut (float): Share of images dropped, from 0 to below 1, beta in the paper. Defaults to 0.
        bins (int): Number of strata. Defaults to 50.

    Raises:
        MmacsError: If an argument is out of range.
    """

    def __init__(self, hard_cut: float = 0.0, bins: int = 50) -> None:
        if not is_number(hard_cut) or not 0 <= hard_cut < 1:
            raise MmacsError(f'hard_cut must be at least 0 and below 1, got {hard_cut!r}')
        require_whole('bins', bins, most=10**6)
        self.hard_cut = hard_cut
        self.bins = bins

    def select(
        self, scores: np.ndarray, size: int, rng: np.random.Generator, labels: Optional[csr_matrix] = None
    ) -> Selection:
        """See :meth:`Selector.select`.

        Raises:
            MmacsError: If fewer images than the budget are left after the cut.
        """
        num_dropped = min(round(self.hard_cut * len(scores)), len(scores) - 1)
        kept = np.delete(np.arange(len(scores)), top_k(scores, num_dropped, rng))
        if len(kept) < size:
            raise MmacsError(
                f'hard_cut={self.hard_cut} leaves {len(kept)} of {len(scores)} images, fewer than the {size} of the '
                f'coreset: lower hard_cut or fraction'
            )
        strata = equal_width_strata(scores[kept], self.bins)
        counts = np.bincount(strata, minlength=self.bins)
        quotas = even_quotas(counts, size, rng)
        drawn = [
            rng.choice(own, quota, replace=False, shuffle=False) for own, quota in zip(members(strata, counts), quotas)
        ]
        chosen = np.sort(np.concatenate(drawn))
        probabilities = quotas / np.maximum(counts, 1)
        return Selection(kept[chosen], probabilities[strata[chosen]])


def equal_width_strata(scores: np.ndarray, bins: int) -> np.ndarray:
    """Cut the range of scores into intervals of equal width, closed below; the last holds the maximum too.

    Args:
        scores (np.ndarray): Finite, shape (N,), N at least 1.
        bins (int): Number of intervals, at least 1.

    Returns:
        np.ndarray: Stratum of each image, of the smallest unsigned integer type, shape (N,). Equal scores all lie in
        stratum 0.
    """
    lowest, width = scores.min(), np.ptp(scores) / bins
    if width == 0:
        return np.zeros(len(scores), dtype=np.min_scalar_type(bins))
    return np.minimum((scores - lowest) / width, bins - 1).astype(np.min_scalar_type(bins))
