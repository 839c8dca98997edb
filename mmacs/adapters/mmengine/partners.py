"""Where MMEngine's and MMDetection's data sets take other images than the one that was asked for, and which.

They do so in three ways: ``MultiImageMixDataset`` asks a transform for the partners of an image (Mosaic, MixUp,
CopyPaste), cached transforms keep images that have passed by (CachedMosaic, CachedMixUp), and a data set whose pipeline
drops an image shows another one.
"""

import copy
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np

from mmacs.adapters.mmengine.wrappers import below, is_mixing_wrapper
from mmacs.utils.type_names import type_name

_CACHE = 'results_cache'  # of cached transforms
_LEAST = 8  # images in a cache; CachedMosaic does nothing below 5


@contextmanager
def partners_among(dataset: Any, index: int, others: Sequence[int]) -> Iterator[None]:
    """A data set takes other images from given ones alone, while it loads one of its items inside.

    Cached transforms have no memory inside: what they would find in their caches is loaded by the transforms before
    them. So an item is a function of the random state, of ``index`` and of ``others``, whatever was loaded before.

    Args:
        dataset (Any): A data set or a wrapper around some. Wrappers that mmacs doesn't know are not looked through.
        index (int): The item that is loaded.
        others (Sequence[int]): Indices of the data set. Where several are concatenated, an item takes those of its own
            data set, and itself where there is none.
    """
    with ExitStack() as stack:
        indices = np.asarray([index, *others], dtype=np.int64)
        for part, allowed in _allowed(dataset, indices, np.arange(len(indices))):
            for holder, name, value in _replacements(part, allowed):
                stack.enter_context(_replaced(holder, name, value))
        yield


def mixing_transforms(dataset: Any) -> List[str]:
    """Returns the names of the transforms of a data set that take other images of it, each once.

    Args:
        dataset (Any): A data set or a wrapper around some.
    """
    names: Dict[str, None] = {}
    waiting = [dataset]
    while waiting:
        part = waiting.pop()
        for _, transform in _transforms(part):
            if hasattr(transform, _CACHE) or (is_mixing_wrapper(part) and hasattr(transform, 'get_indexes')):
                names[type_name(type(transform))] = None
        waiting += [inner for inner, _, _ in below(part, np.zeros(0, np.int64)) or ()]
    return list(names)


def _allowed(dataset: Any, indices: np.ndarray, places: np.ndarray) -> Iterator[Tuple[Any, List[int]]]:
    """The data sets that show an item or others, with the indices that they may take other images from.

    Args:
        dataset (Any): A data set.
        indices (np.ndarray): Indices of it, int64, shape (K,).
        places (np.ndarray): Which they are, ascending: 0 for the item, others from 1, int64, shape (K,).
    """
    yield dataset, (indices[places > 0] if (places > 0).any() else indices).tolist()
    for part, shown, inner in below(dataset, indices) or ():
        if len(shown):
            yield from _allowed(part, inner, places[shown])


def _replacements(part: Any, allowed: List[int]) -> Iterator[Tuple[Any, str, Any]]:
    """What a data set is to have in the place of what it has: object, attribute, value."""
    if hasattr(part, '_rand_another'):  # MMEngine's hook for data sets of one's own
        yield part, '_rand_another', lambda *_: int(np.random.choice(allowed))
    for place, transform in _transforms(part):
        if hasattr(transform, _CACHE):
            yield transform, _CACHE, _Cache(part, place, allowed)
        elif is_mixing_wrapper(part) and hasattr(transform, 'get_indexes'):
            yield transform, 'get_indexes', _translated(transform.get_indexes, allowed)


def _transforms(part: Any) -> Iterator[Tuple[int, Any]]:
    """The transforms of a data set's own pipeline with their places in it; those within others have the outer place."""
    for place, transform in enumerate(_steps(getattr(part, 'pipeline', None))):
        for inner in _within(transform):
            yield place, inner


def _steps(pipeline: Any) -> Sequence[Any]:
    """The transforms of a pipeline, or of a transform that holds some."""
    while hasattr(pipeline, 'transforms'):
        pipeline = pipeline.transforms
    return pipeline if isinstance(pipeline, (list, tuple)) else ()


def _within(transform: Any) -> Iterator[Any]:
    yield transform
    for inner in _steps(transform):
        yield from _within(inner)


class _Subset:
    """Some items of a data set."""

    def __init__(self, dataset: Any, indices: Sequence[int]) -> None:
        self._dataset, self._indices = dataset, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, number: int) -> Any:
        return self._dataset[self._indices[number]]


def _translated(get_indexes: Callable[[Any], Union[int, Sequence[int]]], allowed: List[int]) -> Callable[[Any], Any]:
    """Has a transform choose partners among some images of a data set, as if there were no others."""

    def choose(dataset: Any) -> Union[int, List[int]]:
        found = get_indexes(_Subset(dataset, allowed))
        return [allowed[number] for number in found] if isinstance(found, Sequence) else allowed[found]

    return choose


class _Cache:
    """What a cached transform finds in its cache: results of the transforms before it, loaded when they are asked for.

    It keeps nothing of what is put into it.
    """

    def __init__(self, part: Any, place: int, allowed: List[int]) -> None:
        self._part, self._place = part, place
        self._indices = np.resize(allowed, max(len(allowed), _LEAST)).tolist()
        self._before: Optional[Any] = None
        self._loaded: Dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, number: int) -> Any:
        index = self._indices[number]
        if index not in self._loaded:
            if self._before is None:
                self._before = _cut(self._part, self._place)
            self._loaded[index] = self._before[index]
        return self._loaded[index]

    def append(self, results: Any) -> None:
        """Keep nothing."""

    def pop(self, number: int) -> None:
        """Remove nothing."""


def _cut(part: Any, place: int) -> Any:
    """Returns a data set with the first transforms of its pipeline alone."""
    before = copy.copy(part)
    if hasattr(part.pipeline, 'transforms'):
        before.pipeline = copy.copy(part.pipeline)
        before.pipeline.transforms = part.pipeline.transforms[:place]
    else:
        before.pipeline = part.pipeline[:place]
    return before


@contextmanager
def _replaced(holder: Any, name: str, value: Any) -> Iterator[None]:
    """An object has another attribute inside, and what it had before after."""
    missing = object()
    before = vars(holder).get(name, missing)
    setattr(holder, name, value)
    try:
        yield
    finally:
        if before is missing:
            delattr(holder, name)
        else:
            setattr(holder, name, before)
