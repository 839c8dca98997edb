"""All images that still matter in turn, before any of them comes again."""

from typing import Dict, Optional

import numpy as np
from scipy.sparse import csr_matrix

from mmacs.coreset.selection.selectors.base import Selection, Selector
from mmacs.utils.checks import is_number
from mmacs.utils.errors import MmacsError
from mmacs.utils.registry import SELECTORS


@SELECTORS.register_module()
class Sweep(Selector):
    """Goes evenly through the images whose score is above a floor: what the model has learnt is left out.

    In each epoch it draws among those that its present pass has not shown. When all were shown, the next pass begins,
    within the epoch, without the images that the epoch holds already. An image that a round lifts above the floor joins
    the present pass; one that falls below leaves it, and is not shown twice if it comes back before the pass ends. If
    fewer images are above the floor than the budget buys, all of them are chosen, and chance fills it up from the rest.
    In an iteration-based loop images of a coreset that a round cuts short count as shown. Where rounds choose among
    candidates, drawn whatever was shown, a pass is over when all candidates above the floor were shown.

    The floor means something for raw errors alone: ``importance=dict(weights=dict(evs=1.0), normalisation='none')``,
    or ``reducible_error`` or ``loss`` in the place of ``evs``. Within :class:`ClassBalanced` each class has passes of
    its own and keeps its share of the budget.

    Args:
        floor (float): In units of the score. Defaults to 0.1, which suits ``evs`` of classifiers, in [0, sqrt(2)].

    Raises:
        MmacsError: If the floor is no number.
    """

    redraw = True
    remembers = True
    needs_raw = True

    def __init__(self, floor: float = 0.1) -> None:
        if not is_number(floor):
            raise MmacsError(f'floor must be a number in units of the score, such as 0.1, got {floor!r}')
        self.floor = floor

    def select(
        self,
        scores: np.ndarray,
        size: int,
        rng: np.random.Generator,
        labels: Optional[csr_matrix] = None,
        shown: Optional[np.ndarray] = None,
    ) -> Selection:
        """See :meth:`Selector.select`. There are no probabilities: they depend on what was shown (None: nothing)."""
        above = scores > self.floor
        shown = np.zeros(len(scores), dtype=bool) if shown is None else shown
        chosen = np.zeros(len(scores), dtype=bool)
        for candidates in (above & ~shown, above & shown, ~above):
            left = np.flatnonzero(candidates)
            drawn = rng.choice(left, min(size, len(left)), replace=False, shuffle=False)
            chosen[drawn] = True
            size -= len(drawn)
        return Selection(np.flatnonzero(chosen))

    def remember(
        self, scores: np.ndarray, chosen: np.ndarray, shown: np.ndarray, labels: Optional[csr_matrix] = None
    ) -> np.ndarray:
        """See :meth:`Selector.remember`: the images that the present pass has shown."""
        waiting = (scores > self.floor) & ~shown
        if (waiting & ~chosen).any():
            return shown | chosen
        return chosen & ~waiting  # the next pass has begun with these

    def facts(self, scores: np.ndarray, chosen: np.ndarray) -> Dict[str, float]:
        """See :meth:`Selector.facts`: ``above_floor``, and ``filled_up``, images of the coreset that are not."""
        filled_up = int((scores[chosen] <= self.floor).sum())
        return {'above_floor': int((scores > self.floor).sum()), **({'filled_up': filled_up} if filled_up else {})}
