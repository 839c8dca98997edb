"""The images of middling score."""

from typing import Optional

import numpy as np
from scipy.sparse import csr_matrix

from mmacs.coreset.selection.selectors.base import Selection, Selector
from mmacs.coreset.selection.selectors.top_k import top_k
from mmacs.utils.registry import SELECTORS


@SELECTORS.register_module()
class Moderate(Selector):
    """The images whose scores lie nearest to the median, after Moderate coreset (Xia et al., ICLR 2023).

    The paper's score is an image's distance to the centre of its class in feature space; ours is the importance.
    """

    def select(
        self, scores: np.ndarray, size: int, rng: np.random.Generator, labels: Optional[csr_matrix] = None
    ) -> Selection:
        """See :meth:`Selector.select`. Only ties are left to chance, so that there are no probabilities."""
        return Selection(top_k(-np.abs(scores - np.median(scores)), size, rng))
