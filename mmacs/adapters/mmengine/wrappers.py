"""What the wrappers of MMEngine, and those of MMDetection and torch, show of the data sets below them."""

from typing import Any, List, Optional, Tuple

import numpy as np
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset

Below = List[Tuple[Any, np.ndarray, np.ndarray]]


def below(dataset: Any, indices: np.ndarray) -> Optional[Below]:
    """Returns which items of the data sets right below a wrapper some of its items are.

    Args:
        dataset (Any): The wrapper.
        indices (np.ndarray): Indices of it, int64, shape (K,).

    Returns:
        List[Tuple[Any, np.ndarray, np.ndarray]]: For each data set below: itself, the places in ``indices`` of those
        that it shows, and the indices that these have in it, both int64 of one shape. None if there is a data set that
        is no wrapper, or one that mmacs doesn't know.
    """
    everywhere = np.arange(len(indices))
    if isinstance(dataset, ConcatDataset):
        ends = np.cumsum([len(part) for part in dataset.datasets])
        which = np.searchsorted(ends, indices, side='right')
        parts = [(part, np.flatnonzero(which == number)) for number, part in enumerate(dataset.datasets)]
        starts = ends - [len(part) for part in dataset.datasets]
        return [(part, places, indices[places] - starts[number]) for number, (part, places) in enumerate(parts)]
    if isinstance(dataset, RepeatDataset):
        return [(dataset.dataset, everywhere, indices % len(dataset.dataset))]
    if isinstance(dataset, ClassBalancedDataset):
        shown = [dataset.repeat_indices[index] for index in indices.tolist()]  # not all: this runs for each item
        return [(dataset.dataset, everywhere, np.asarray(shown, np.int64))]
    if is_mixing_wrapper(dataset):
        return [(dataset.dataset, everywhere, indices)]
    return None


def is_mixing_wrapper(dataset: Any) -> bool:
    """Returns whether a wrapper mixes other images into each of the data set below (MMDetection's)."""
    return type(dataset).__name__ == 'MultiImageMixDataset'
