"""Each class keeps its share of the budget."""

import math
from typing import Any, Dict, Optional

import numpy as np
from scipy.sparse import csr_matrix

from mmacs.coreset.selection.selectors.base import Selection, Selector
from mmacs.coreset.selection.selectors.quotas import floored_quotas, members
from mmacs.utils.checks import require_whole
from mmacs.utils.errors import MmacsError
from mmacs.utils.registry import SELECTORS


@SELECTORS.register_module()
class ClassBalanced(Selector):
    r"""Shares the budget between classes as the data set does, and lets another selector choose within each class.

    With :class:`TopK` within classes it is what the released code of ACS (Huang et al. 2024, arXiv 2306.07215) does
    by default. An image of several classes, as detectors have them, counts for the rarest, see :func:`class_groups`.
    Shares are rounded at random, so that in the long run each class has its share exactly, the rarest too.

    That grouping was chosen by drawing alone, on BCCD and COCO (docs/results.md): grouped so, top-k by scores that go
    with classes has the spread of classes of a random draw. A greedy choice by the classes most wanting is nearer to
    the shares of COCO, but takes 10 to 17 % more objects, and has no use for another selector or its probabilities.

    Args:
        selector (dict, optional): Config of the selector within a class; None is ``dict(type='mmacs.TopK')``.
        floor (int): Images that each class gets at least, or all that count for it, as far as the budget goes; what is
            left is shared in proportion. A floor beyond all classes shares evenly. Defaults to 0.

    Raises:
        MmacsError: If that config is wrong, or the floor no whole number.
    """

    needs_labels = True

    def __init__(self, selector: Optional[Dict[str, Any]] = None, floor: int = 0) -> None:
        require_whole('floor', floor, least=0)
        self.floor = floor
        self.selector = SELECTORS.build({'type': 'mmacs.TopK'} if selector is None else selector)
        self.redraw = self.selector.redraw
        self.remembers = self.selector.remembers
        self.needs_raw = self.selector.needs_raw

    def select(
        self,
        scores: np.ndarray,
        size: int,
        rng: np.random.Generator,
        labels: Optional[csr_matrix] = None,
        shown: Optional[np.ndarray] = None,
    ) -> Selection:
        """See :meth:`Selector.select`.

        Probabilities are those of the selector within the class, times that of the class to have a quota at all: so
        weights of one over them make sums unbiased, whatever quotas were rounded to.
        """
        if labels is None:
            raise MmacsError('ClassBalanced needs the classes of the images, which this data set does not have')
        groups = class_groups(labels)
        counts = np.bincount(groups, minlength=labels.shape[1] + 1)
        floors = np.minimum(counts, self.floor)
        floors[-1] = 0  # images without a class are not one
        indices, probabilities = [], []
        quotas, chances = floored_quotas(counts, floors, size, rng)
        for own, quota, chance in zip(members(groups, counts), quotas.tolist(), chances.tolist()):
            if len(own):
                memory = () if shown is None else (shown[own],)
                part = self.selector.select(scores[own], quota, rng, labels[own], *memory)
                indices.append(own[part.indices])
                probabilities.append(None if part.probabilities is None else chance * part.probabilities)
        chosen = np.concatenate(indices)
        if any(known is None for known in probabilities):
            return Selection(np.sort(chosen))
        order = np.argsort(chosen)
        return Selection(chosen[order], np.concatenate(probabilities)[order])

    def of_candidates(self, times: float) -> 'ClassBalanced':
        """See :meth:`Selector.of_candidates`: classes keep their shares, and rare ones enough for their floor."""
        return ClassBalanced({'type': 'mmacs.Random'}, floor=math.ceil(times * self.floor))

    def remember(
        self, scores: np.ndarray, chosen: np.ndarray, shown: np.ndarray, labels: Optional[csr_matrix] = None
    ) -> np.ndarray:
        """See :meth:`Selector.remember`."""
        groups, shown = class_groups(labels), shown.copy()
        for own in members(groups, np.bincount(groups, minlength=labels.shape[1] + 1)):
            shown[own] = self.selector.remember(scores[own], chosen[own], shown[own], labels[own])
        return shown

    def facts(self, scores: np.ndarray, chosen: np.ndarray) -> Dict[str, float]:
        """See :meth:`Selector.facts`."""
        return self.selector.facts(scores, chosen)


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
