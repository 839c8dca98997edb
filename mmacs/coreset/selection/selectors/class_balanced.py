"""Each class keeps its share of the budget."""

from typing import Any, Dict, Optional

import numpy as np
from scipy.sparse import csr_matrix

from mmacs.coreset.selection.selectors.base import Selection, Selector
from mmacs.coreset.selection.selectors.quotas import members, proportional_quotas
from mmacs.utils.errors import MmacsError
from mmacs.utils.registry import SELECTORS


@SELECTORS.register_module()
class ClassBalanced(Selector):
    """Shares the budget between classes as the data set does, and lets another selector choose within each class.

    With :class:`TopK` within classes it is what the released code of ACS (Huang et al. 2024, arXiv 2306.07215) does
    by default.

    Args:
        selector (dict, optional): Config of the selector within a class; None is ``dict(type='mmacs.TopK')``.

    Raises:
        MmacsError: If that config is wrong.
    """

    needs_labels = True

    def __init__(self, selector: Optional[Dict[str, Any]] = None) -> None:
        self.selector = SELECTORS.build({'type': 'mmacs.TopK'} if selector is None else selector)
        self.redraw = self.selector.redraw

    def select(
        self, scores: np.ndarray, size: int, rng: np.random.Generator, labels: Optional[csr_matrix] = None
    ) -> Selection:
        """See :meth:`Selector.select`. Probabilities are those of the selector within the class.

        A class too rare for a single image of the budget has a probability of 0.
        """
        classes = single_labels(labels)
        counts = np.bincount(classes, minlength=labels.shape[1])
        indices, probabilities = [], []
        quotas = proportional_quotas(counts, size, rng)
        for own, quota in zip(members(classes, counts), quotas.tolist()):
            if len(own):
                part = self.selector.select(scores[own], quota, rng, labels[own])
                indices.append(own[part.indices])
                probabilities.append(part.probabilities)
        chosen = np.concatenate(indices)
        if any(known is None for known in probabilities):
            return Selection(np.sort(chosen))
        order = np.argsort(chosen)
        return Selection(chosen[order], np.concatenate(probabilities)[order])


def single_labels(labels: Optional[csr_matrix]) -> np.ndarray:
    """Returns the class of each image.

    Args:
        labels (csr_matrix, optional): Which classes each image holds, bool, shape (N, C).

    Returns:
        np.ndarray: Of the smallest unsigned integer type, shape (N,).

    Raises:
        MmacsError: If there are no labels, or an image has none or several.
    """
    if labels is None or (np.diff(labels.indptr) != 1).any():
        raise MmacsError(
            'ClassBalanced needs exactly one label per image, which this data set does not have: use class_floor with '
            'another selector'
        )
    return labels.indices.astype(np.min_scalar_type(labels.shape[1]))
