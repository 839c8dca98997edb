"""The interface of all selectors, and what every selection has: a size and a digest."""

import hashlib
from typing import Dict, NamedTuple, Optional

import numpy as np
from scipy.sparse import csr_matrix

from mmacs.utils.checks import is_number
from mmacs.utils.errors import MmacsError
from mmacs.utils.registry import SELECTORS


class Selection(NamedTuple):
    """Images that a selector chose."""

    indices: np.ndarray  # int64, ascending, shape (size,)
    probabilities: Optional[np.ndarray] = None  # each one's inclusion probability in (0, 1]; None: unknown


class Selector:
    """Chooses which images a budget buys, given their importance.

    A selector is the same everywhere: equal scores and an equal random generator give equal indices. Of equal scores
    chance decides, never the place in the data set.

    Attributes:
        redraw (bool): Whether it draws anew in each epoch; otherwise only when there are new scores.
        needs_labels (bool): Whether it asks for the classes of the images.
        needs_raw (bool): Whether it compares scores with a number, so that ranks say nothing to it.
        remembers (bool): Whether it chooses by what it has shown: :meth:`select` then takes that as a fifth argument,
            ``shown``, and :meth:`remember` says what has been shown after a choice.
    """

    redraw = False
    needs_labels = False
    needs_raw = False
    remembers = False

    def select(
        self, scores: np.ndarray, size: int, rng: np.random.Generator, labels: Optional[csr_matrix] = None
    ) -> Selection:
        """Choose exactly ``size`` images.

        Args:
            scores (np.ndarray): Importance, finite, float64, shape (N,).
            size (int): From 0 to N.
            rng (np.random.Generator): The only source of chance.
            labels (csr_matrix, optional): Which classes each image holds, bool, shape (N, C).

        Returns:
            Selection: Ascending indices and, where they are known, their inclusion probabilities.

        Raises:
            MmacsError: If it needs labels that there aren't.
        """
        raise NotImplementedError

    def of_candidates(self, times: float) -> 'Selector':
        """Returns the selector that draws, without scores, the images that this one chooses among.

        Args:
            times (float): Images to draw, as a multiple of the budget, at least 1.
        """
        return SELECTORS.build({'type': 'mmacs.Random'})

    def remember(
        self, scores: np.ndarray, chosen: np.ndarray, shown: np.ndarray, labels: Optional[csr_matrix] = None
    ) -> np.ndarray:
        """Returns what a selector that remembers has shown after a choice, bool, shape (N,).

        Args:
            scores (np.ndarray): Importance that it chose by, shape (N,).
            chosen (np.ndarray): The coreset, which may hold more than the selector's choice, bool, shape (N,).
            shown (np.ndarray): What it had shown before, bool, shape (N,).
            labels (csr_matrix, optional): Which classes each image holds, bool, shape (N, C).
        """
        return shown

    def facts(self, scores: np.ndarray, chosen: np.ndarray) -> Dict[str, float]:
        """Returns what a person should know of a choice, for the log.

        Args:
            scores (np.ndarray): Importance of the images that could be chosen, shape (N,).
            chosen (np.ndarray): The coreset, bool, shape (N,).
        """
        return {}


def coreset_size(fraction: float, num_images: int) -> int:
    """Returns the number of images in a coreset, ``round(fraction * num_images)`` and at least 1.

    Raises:
        MmacsError: If ``fraction`` is outside (0, 1].
    """
    if not is_number(fraction) or not 0 < fraction <= 1:
        raise MmacsError(f'fraction must be above 0 and at most 1, got {fraction!r}')
    return max(1, round(fraction * num_images))


def digest(indices: np.ndarray) -> str:
    """Hash of a selection that tells whether two runs, or two processes, chose the same images.

    Returns:
        str: The first 16 hexadecimal digits of the SHA-256 of the indices as little-endian int64.
    """
    return hashlib.sha256(np.ascontiguousarray(indices, dtype='<i8').tobytes()).hexdigest()[:16]
