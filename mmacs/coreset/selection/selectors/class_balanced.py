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
    by default. An image of several classes, as detectors have them, counts for the rarest, see :func:`class_groups`.

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
        if labels is None:
            raise MmacsError('ClassBalanced needs the classes of the images, which this data set does not have')
        groups = class_groups(labels)
        counts = np.bincount(groups, minlength=labels.shape[1] + 1)
        indices, probabilities = [], []
        quotas = proportional_quotas(counts, size, rng)
        for own, quota in zip(members(groups, counts), quotas.tolist()):
            if len(own):
                part = self.selector.select(scores[own], quota, rng, labels[own])
                indices.append(own[part.indices])
                probabilities.append(part.probabilities)
        chosen = np.concatenate(indices)
        if any(known is None for known in probabilities):
            return Selection(np.sort(chosen))
        order = np.argsort(chosen)
        return Selection(chosen[order], np.concatenate(probabilities)[order])


def class_groups(labels: csr_matrix) -> np.ndarray:
    """Returns the group of each image: the rarest class that it holds, by images, or the group without a class.

    Args:
        labels (csr_matrix): Which classes each image holds, bool, shape (N, C).

    Returns:
        np.ndarray: From 0 to C, which is the group without a class, of the smallest unsigned integer type, shape (N,).
        Of equally rare classes it is the first.
    """
    num_classes = labels.shape[1]
    images = np.bincount(labels.indices, minlength=num_classes)
    order = np.argsort(images, kind='stable')  # from the rarest class on
    place = np.empty_like(order)
    place[order] = np.arange(num_classes)
    groups = np.full(labels.shape[0], num_classes)
    held = np.flatnonzero(np.diff(labels.indptr))
    if len(held):
        groups[held] = order[np.minimum.reduceat(place[labels.indices], labels.indptr[held])]
    return groups.astype(np.min_scalar_type(num_classes))
