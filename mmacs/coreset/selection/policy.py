"""From what is known of the images to a coreset: importance, then a selector within constraints. Pure functions."""

from dataclasses import dataclass, replace
from typing import Mapping, Optional

import numpy as np
from scipy.sparse import csr_matrix

from mmacs.coreset.selection.constraints import AUTO, Constraints
from mmacs.coreset.selection.mixture import MOST, wrong_share
from mmacs.coreset.selection.selectors import Selection, Selector
from mmacs.coreset.selection.trimming import suspicion, trimmed


@dataclass(frozen=True)
class Policy:
    """From importance to a coreset.

    Args:
        selector (Selector): What chooses.
        constraints (Constraints): What is chosen whatever its importance, and what is left out.
    """

    selector: Selector
    constraints: Constraints

    @property
    def redraw(self) -> bool:
        """Whether it draws anew in each epoch."""
        return self.selector.redraw or self.constraints.random_share > 0

    @property
    def needs_labels(self) -> bool:
        """Whether it asks for the classes of the images."""
        return self.selector.needs_labels or self.constraints.class_floor > 0

    def of_candidates(self, times: float) -> 'Policy':
        """Returns the policy that draws what this one chooses among: evenly, what constraints ask for first.

        Args:
            times (float): Candidates as a multiple of the coreset, at least 1.
        """
        return Policy(self.selector.of_candidates(times), replace(self.constraints, random_share=0.0, trim=0.0))

    @property
    def most_trimmed(self) -> float:
        """Greatest share of the images that trimming leaves out."""
        return MOST if self.constraints.trim == AUTO else self.constraints.trim

    def suspicion(self, scores: Mapping[str, np.ndarray]) -> Optional[np.ndarray]:
        """Returns how much each image looks mislabelled, in [0, 1], shape (M,); None without trimming."""
        return suspicion(scores['teacher_error'], scores.get('ds')) if self.constraints.trim else None

    def excluded(
        self, scores: Mapping[str, np.ndarray], rng: np.random.Generator, most: float = 1.0
    ) -> Optional[np.ndarray]:
        """Returns which images are left out, bool, shape (M,); None without trimming.

        Args:
            scores (Mapping[str, np.ndarray]): The column ``teacher_error`` and, where it is known, ``ds``, each of
                shape (M,).
            rng (np.random.Generator): The only source of chance.
            most (float): Bound on an estimated share, which must leave the budget its images.
        """
        share = self.constraints.trim
        if not share:
            return None
        if share == AUTO:
            share = min(most, wrong_share(scores['teacher_error']))
        return trimmed(self.suspicion(scores), share, rng)

    def choose(
        self,
        importance: np.ndarray,
        size: int,
        rng: np.random.Generator,
        gaps: np.ndarray,
        positions: np.ndarray,
        labels: Optional[csr_matrix] = None,
        excluded: Optional[np.ndarray] = None,
        shown: Optional[np.ndarray] = None,
    ) -> Selection:
        """Chooses data set indices; one image may stand behind several of them.

        Args:
            importance (np.ndarray): Of the M distinct images, shape (M,).
            size (int): Indices to choose.
            rng (np.random.Generator): The only source of chance.
            gaps (np.ndarray): Rounds since each image was last in a coreset, int64, shape (M,).
            positions (np.ndarray): Which image each of the N indices shows, int64, shape (N,).
            labels (csr_matrix, optional): Classes of the M images, bool, shape (M, C).
            excluded (np.ndarray, optional): Images that nothing may choose, bool, shape (M,).
            shown (np.ndarray, optional): Indices that a selector that remembers has shown, bool, shape (N,).

        Returns:
            Selection: Of indices from 0 to N - 1.
        """
        return self.constraints.choose(
            self.selector,
            importance[positions],
            size,
            rng,
            labels=None if labels is None else labels[positions],
            gaps=gaps[positions],
            excluded=None if excluded is None else excluded[positions],
            shown=shown,
        )

    def remember(
        self,
        importance: np.ndarray,
        selection: Selection,
        shown: np.ndarray,
        positions: np.ndarray,
        labels: Optional[csr_matrix] = None,
        excluded: Optional[np.ndarray] = None,
    ) -> np.ndarray:
        """Returns what a selector that remembers has shown after a selection, bool, shape (N,); see :meth:`choose`."""
        free = np.flatnonzero(np.ones(len(positions), dtype=bool) if excluded is None else ~excluded[positions])
        chosen, shown = np.zeros(len(positions), dtype=bool), shown.copy()
        chosen[selection.indices] = True
        own = None if labels is None else labels[positions[free]]
        shown[free] = self.selector.remember(importance[positions[free]], chosen[free], shown[free], own)
        return shown
