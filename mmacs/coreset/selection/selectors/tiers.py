"""Hard images often, easy ones rarely."""

from typing import Optional, Sequence

import numpy as np
from scipy.sparse import csr_matrix

from mmacs.coreset.selection.selectors.base import Selection, Selector
from mmacs.coreset.selection.selectors.systematic import systematic_sample
from mmacs.utils.checks import is_number
from mmacs.utils.errors import MmacsError
from mmacs.utils.registry import SELECTORS


@SELECTORS.register_module()
class Tiers(Selector):
    """The rates of AFSS (Xie et al. 2026, arXiv 2603.17684) at a fixed budget.

    An image is hard from one threshold of its score on, easy up to another, and moderate in between. In AFSS the score
    is ``1 - min(precision, recall)``: for that, score by sufficiency alone, without normalisation. Images are drawn
    with probabilities proportional to the rates of their tiers, scaled to the budget. That no image stays away too
    long, the other half of AFSS, is ``max_gap`` of :class:`mmacs.CoresetHook`.

    Args:
        hard (float): Images of this score or more are hard. The default, 0.45, is ours.
        easy (float): Images of this score or less are easy; below ``hard``. The default, 0.15, is ours.
        rates (Sequence[float]): Of hard, moderate and easy images, in (0, 1]. Defaults to (1.0, 0.4, 0.02), AFSS's.

    Raises:
        MmacsError: If an argument is out of range.
    """

    redraw = True

    def __init__(self, hard: float = 0.45, easy: float = 0.15, rates: Sequence[float] = (1.0, 0.4, 0.02)) -> None:
        if not is_number(hard) or not is_number(easy) or not easy < hard:
            raise MmacsError(f'easy and hard must be numbers, easy below hard, got easy={easy!r} and hard={hard!r}')
        numbers = isinstance(rates, (list, tuple)) and all(is_number(rate) and 0 < rate <= 1 for rate in rates)
        if not numbers or len(rates) != 3:
            raise MmacsError(
                f'rates must be three numbers above 0 and at most 1, for hard, moderate and easy images, got {rates!r}'
            )
        self.hard = hard
        self.easy = easy
        self.rates = np.array(rates, dtype=np.float64)

    def select(
        self, scores: np.ndarray, size: int, rng: np.random.Generator, labels: Optional[csr_matrix] = None
    ) -> Selection:
        """See :meth:`Selector.select`."""
        tiers = (scores < self.hard).astype(np.uint8) + (scores <= self.easy)
        probabilities = scaled_rates(self.rates, np.bincount(tiers, minlength=3), size)
        chosen = systematic_sample(probabilities[tiers], rng)
        return Selection(chosen, probabilities[tiers[chosen]])


def scaled_rates(rates: np.ndarray, counts: np.ndarray, size: int) -> np.ndarray:
    """Probabilities ``min(1, c * rate)`` with c such that the expected number of images is the budget.

    Args:
        rates (np.ndarray): Of each tier, positive, shape (T,).
        counts (np.ndarray): Images in each tier, int64, shape (T,).
        size (int): The budget, from 0 to ``counts.sum()``.

    Returns:
        np.ndarray: In [0, 1], float64, shape (T,); 0 for tiers without images.
    """
    probabilities = np.zeros(len(rates))
    left, weight = float(size), float(rates @ counts)
    for tier in np.argsort(-rates, kind='stable'):  # from the highest rate, which reaches 1 first
        if counts[tier]:
            probabilities[tier] = min(1.0, left / weight * rates[tier])
            left = max(0.0, left - probabilities[tier] * counts[tier])
            weight -= rates[tier] * counts[tier]
    return probabilities
