"""What every coreset must hold, whatever the selector: rare classes, images long unseen, a random share."""

import math
from dataclasses import dataclass
from typing import Optional, Union

import numpy as np
from scipy.sparse import csr_matrix

from mmacs.coreset.selection.selectors.base import Selection, Selector
from mmacs.coreset.selection.selectors.top_k import top_k
from mmacs.utils.checks import is_number, require_whole
from mmacs.utils.errors import MmacsError

AUTO = 'auto'


@dataclass(frozen=True)
class Constraints:
    """Parts of the budget that are not the selector's, served in this order.

    1. ``max_gap``: images that were away too long. If more are due than the budget buys, those away longest come
       first, then those of higher score; the others follow in the next rounds, each before
       its gap is twice the maximum. That this can be kept is checked where a coreset stays for a round; one that is
       drawn anew in each epoch holds more images per round than the budget, how many depends on the interval.
    2. ``class_floor``: for each class, from the rarest on, its images of highest score until enough are chosen. Images
       chosen before count. What overdue images left of the budget may be too little for all classes.
    3. ``random_share``: drawn uniformly from what is left.
    4. The selector chooses the rest of the budget from the rest of the images.

    Args:
        class_floor (int): Images of each class in each coreset, or all that it has. Defaults to 0.
        max_gap (int, optional): An image whose last coreset lies so many rounds back must be in the next. Defaults to
            None.
        random_share (float): Share of the budget, from 0 to 1. Defaults to 0.
        trim (float or str): Share of the images, at least 0 and below 1, that nothing may choose, since they look
            mislabelled, see :mod:`mmacs.coreset.selection.trimming`; ``'auto'`` estimates it in each round, see
            :mod:`mmacs.coreset.selection.mixture`. Defaults to 0.

    Raises:
        MmacsError: If an argument is out of range.
    """

    class_floor: int = 0
    max_gap: Optional[int] = None
    random_share: float = 0.0
    trim: Union[float, str] = 0.0

    def __post_init__(self) -> None:
        require_whole('class_floor', self.class_floor, least=0)
        if self.max_gap is not None:
            require_whole('max_gap', self.max_gap)
        if not is_number(self.random_share) or not 0 <= self.random_share <= 1:
            raise MmacsError(f'random_share must be from 0 to 1, got {self.random_share!r}')
        if self.trim != AUTO and (not is_number(self.trim) or not 0 <= self.trim < 1):
            raise MmacsError(
                f"trim must be a share of the images, at least 0 and below 1, or 'auto', got {self.trim!r}"
            )

    def choose(
        self,
        selector: Selector,
        scores: np.ndarray,
        size: int,
        rng: np.random.Generator,
        labels: Optional[csr_matrix] = None,
        gaps: Optional[np.ndarray] = None,
        excluded: Optional[np.ndarray] = None,
        shown: Optional[np.ndarray] = None,
    ) -> Selection:
        """Choose exactly ``size`` images.

        Args:
            selector (Selector): Chooses what the constraints leave of the budget.
            scores (np.ndarray): Importance, finite, float64, shape (N,).
            size (int): From 0 to N.
            rng (np.random.Generator): The only source of chance.
            labels (csr_matrix, optional): Which classes each image holds, bool, shape (N, C).
            gaps (np.ndarray, optional): Rounds since each image was last in a coreset, or since the start, int, shape
                (N,). ``max_gap`` needs them.
            excluded (np.ndarray, optional): Images that nothing may choose, bool, shape (N,).
            shown (np.ndarray, optional): What a selector that remembers has shown, bool, shape (N,).

        Returns:
            Selection: Ascending indices. Probabilities are the selector's, and unknown if there is any floor.

        Raises:
            MmacsError: If too few images are left, a floor cannot be met, or labels are missing.
        """
        free = np.ones(len(scores), dtype=bool) if excluded is None else ~excluded
        num_free = np.count_nonzero(free)
        if num_free < size:
            raise MmacsError(
                f'{num_free} of {len(scores)} images are left after trimming, fewer than the {size} of the coreset: '
                f'lower trim or fraction'
            )
        if not (self.class_floor or self.max_gap or self.random_share):
            if excluded is None:
                return selector.select(scores, size, rng, labels, *(() if shown is None else (shown,)))
            return _select_among(selector, np.flatnonzero(free), scores, size, rng, labels, shown)
        chosen = np.zeros(len(scores), dtype=bool)
        left = size
        if self.max_gap:
            if not (selector.redraw or self.random_share):
                self._check_gap(size, num_free, len(scores))
            due = np.flatnonzero(free & (gaps >= self.max_gap))
            due = longest_away(due, scores, gaps, left, rng)
            chosen[due] = True
            left -= len(due)
        if self.class_floor:
            if labels is None:
                raise MmacsError('class_floor needs labels, which this data set does not have: leave it at 0')
            wanted = rare_class_images(scores, labels, self.class_floor, chosen, free, rng)
            if left == size and len(wanted) > size:
                raise MmacsError(
                    f'class_floor={self.class_floor} needs {len(wanted)} images, more than the {size} of the coreset: '
                    f'lower class_floor or raise fraction'
                )
            chosen[wanted[:left]] = True
            left -= len(wanted[:left])
        num_random = min(left, round(self.random_share * size))
        chosen[rng.choice(np.flatnonzero(free & ~chosen), num_random, replace=False, shuffle=False)] = True
        left -= num_random
        if left:
            others = np.flatnonzero(free & ~chosen)
            chosen[_select_among(selector, others, scores, left, rng, labels, shown).indices] = True
        return Selection(np.flatnonzero(chosen))

    def _check_gap(self, size: int, num_free: int, num_images: int) -> None:
        if size * self.max_gap < num_free:
            fraction = math.ceil(1e4 * math.ceil(num_free / self.max_gap) / num_images) / 1e4
            raise MmacsError(
                f'max_gap={self.max_gap} cannot be met with {size} of {num_free} images per round: use a max_gap of at '
                f'least {math.ceil(num_free / max(1, size))} or a fraction of at least {fraction:g}'
            )


def longest_away(
    due: np.ndarray, scores: np.ndarray, gaps: np.ndarray, limit: int, rng: np.random.Generator
) -> np.ndarray:
    """Returns the overdue images that come first: of longest gap, then of higher score; then chance decides.

    Args:
        due (np.ndarray): Overdue images, int64, ascending, shape (D,).
        scores (np.ndarray): Shape (N,).
        gaps (np.ndarray): Rounds since each image was last in a coreset, int, shape (N,).
        limit (int): How many at most, at least 1.
        rng (np.random.Generator): The source of chance.

    Returns:
        np.ndarray: int64, shape (min(D, limit),).
    """
    if len(due) <= limit:
        return due
    own = gaps[due]
    shortest = np.partition(own, len(due) - limit)[len(due) - limit]
    first, tied = due[own > shortest], due[own == shortest]
    return np.concatenate([first, tied[top_k(scores[tied], limit - len(first), rng)]])


def rare_class_images(
    scores: np.ndarray,
    labels: csr_matrix,
    floor: int,
    chosen: np.ndarray,
    free: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Returns the images to add so that each class has ``floor`` images, or all that it has.

    Args:
        scores (np.ndarray): Shape (N,).
        labels (csr_matrix): Which classes each image holds, bool, shape (N, C).
        floor (int): Images per class.
        chosen (np.ndarray): Images chosen already, bool, shape (N,).
        free (np.ndarray): Images that may be chosen, or are, bool, shape (N,).
        rng (np.random.Generator): The source of chance.

    Returns:
        np.ndarray: int64; those of the rarest class first, within a class those of higher score; of equally rare
        classes and of equal scores chance decides.
    """
    chosen = chosen.copy()
    columns = labels.tocsc()
    classes = [own[free[own]] for own in np.split(columns.indices, columns.indptr[1:-1])]
    added = [np.empty(0, dtype=np.int64)]
    for own in sorted((classes[label] for label in rng.permutation(len(classes))), key=len):
        others = own[~chosen[own]]
        missing = min(floor, len(own)) - (len(own) - len(others))
        if missing > 0:
            best = rng.permutation(others[top_k(scores[others], missing, rng)])
            added.append(best[np.argsort(-scores[best], kind='stable')])
            chosen[best] = True
    return np.concatenate(added)


def _select_among(
    selector: Selector,
    candidates: np.ndarray,
    scores: np.ndarray,
    size: int,
    rng: np.random.Generator,
    labels: Optional[csr_matrix],
    shown: Optional[np.ndarray],
) -> Selection:
    """Let a selector choose among some images only."""
    own = None if labels is None else labels[candidates]
    memory = () if shown is None else (shown[candidates],)
    chosen = selector.select(scores[candidates], size, rng, own, *memory)
    return Selection(candidates[chosen.indices], chosen.probabilities)
