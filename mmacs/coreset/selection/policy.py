"""What a budget buys: a selector, the constraints around it, and what is left out as mislabelled."""

from dataclasses import dataclass
from typing import Optional

import numpy as np
from scipy.sparse import csr_matrix

from mmacs.coreset.selection.constraints import Constraints
from mmacs.coreset.selection.selectors import Selection, Selector
from mmacs.coreset.selection.trimming import suspicion, trimmed
from mmacs.coreset.state import Ledger
from mmacs.utils.checks import is_number
from mmacs.utils.errors import MmacsError


@dataclass(frozen=True)
class Policy:
    """From importance to a coreset.

    Args:
        selector (Selector): What chooses.
        constraints (Constraints): What is chosen whatever its importance.
        trim (float): Share of the images, in [0, 1), that are left out as suspected label errors.
    """

    selector: Selector
    constraints: Constraints
    trim: float = 0.0

    def __post_init__(self) -> None:
        if not is_number(self.trim) or not 0 <= self.trim < 1:
            raise MmacsError(f'trim must be a share of the images, at least 0 and below 1, got {self.trim!r}')

    @property
    def redraw(self) -> bool:
        """Whether it draws anew in each epoch."""
        return self.selector.redraw or self.constraints.random_share > 0

    @property
    def needs_labels(self) -> bool:
        """Whether it asks for the classes of the images."""
        return self.selector.needs_labels or self.constraints.class_floor > 0

    def suspicion(self, ledger: Ledger) -> Optional[np.ndarray]:
        """How much each image looks mislabelled, in [0, 1], shape (M,); None without trimming."""
        return suspicion(ledger.scores['teacher_error'], ledger.scores['ds']) if self.trim else None

    def excluded(self, ledger: Ledger) -> Optional[np.ndarray]:
        """Images that are left out, bool, shape (M,); None without trimming."""
        return trimmed(self.suspicion(ledger), self.trim) if self.trim else None

    def choose(
        self,
        importance: np.ndarray,
        size: int,
        rng: np.random.Generator,
        ledger: Ledger,
        positions: np.ndarray,
        labels: Optional[csr_matrix] = None,
    ) -> Selection:
        """Choose data set indices; one image may stand behind several of them.

        Args:
            importance (np.ndarray): Of the M distinct images, shape (M,).
            size (int): Indices to choose.
            rng (np.random.Generator): The only source of chance.
            ledger (Ledger): Of the M distinct images.
            positions (np.ndarray): Which image each of the N indices shows, int64, shape (N,).
            labels (csr_matrix, optional): Classes of the M images, bool, shape (M, C).

        Returns:
            Selection: Of indices from 0 to N - 1.
        """
        excluded = self.excluded(ledger)
        return self.constraints.choose(
            self.selector,
            importance[positions],
            size,
            rng,
            labels=None if labels is None else labels[positions],
            gaps=ledger.gaps()[positions],
            excluded=None if excluded is None else excluded[positions],
        )
