"""Chance alone."""

from typing import Optional

import numpy as np
from scipy.sparse import csr_matrix

from mmacs.coreset.selection.selectors.base import Selection, Selector
from mmacs.utils.registry import SELECTORS


@SELECTORS.register_module()
class Random(Selector):
    """A uniform draw without replacement: repeated random, RS2 (Okanovic et al., ICLR 2024, arXiv 2305.18424)."""

    redraw = True

    def select(
        self, scores: np.ndarray, size: int, rng: np.random.Generator, labels: Optional[csr_matrix] = None
    ) -> Selection:
        """See :meth:`Selector.select`."""
        chosen = rng.choice(len(scores), size, replace=False, shuffle=False)
        return Selection(np.sort(chosen), np.full(size, size / len(scores)))
