"""Items of a data set as a function of what their index says, whoever loads them, and when."""

import operator
from typing import Any, Iterable, Iterator, List, Sequence, Tuple

import numpy as np

from mmacs.adapters.mmengine.partners import partners_among
from mmacs.utils.random_state import kept_random_state, seed_generators
from mmacs.utils.random_streams import Purpose, random_stream

NUM_OTHERS = 32  # MMDetection's Mosaic and MixUp load 4 for an image, and up to 18


class Item(int):
    """An index that says what the transforms of its item draw, and which other images they may take.

    It travels to the workers of a data loader, so that these need to know nothing.

    Args:
        index (int): Index of the data set.
        seed (int): What draws are a function of, together with epoch and index.
        epoch (int): Number of the epoch, or of the pass through the data.
        others (Tuple[int, ...]): Indices of the images that may be mixed into this one, or come in its place where
            transforms drop it; at least one.
    """

    seed: int
    epoch: int
    others: Tuple[int, ...]

    def __new__(cls, index: int, seed: int, epoch: int, others: Tuple[int, ...]) -> 'Item':
        """Make an index; see the class."""
        item = super().__new__(cls, index)
        item.seed, item.epoch, item.others = seed, epoch, others
        return item

    def __reduce__(self) -> Tuple[type, Tuple[Any, ...]]:
        return Item, (int(self), self.seed, self.epoch, self.others)


def items(order: np.ndarray, places: Iterable[int], seed: int, epoch: int) -> Iterator[Item]:
    """Items of an epoch.

    Others are images of the epoch that stand at fixed distances from an image, drawn for each epoch: so each image of
    a shuffled epoch may be mixed with any, and is as often the first of others as any.

    Args:
        order (np.ndarray): Indices of the epoch's images in their order, int64, shape (N,).
        places (Iterable[int]): Places in it of the items that are wanted. What is no number, such as a video and a
            frame, is passed on as it is.
        seed (int): From 0 to 2^63 - 1.
        epoch (int): Number of the epoch, or of the pass through the data.
    """
    count = len(order)
    distances = np.zeros(1, np.int64)  # an image that is alone is its own other
    if count > 1:
        stream = random_stream(seed, Purpose.OTHERS, epoch)
        distances = 1 + stream.choice(count - 1, min(NUM_OTHERS, count - 1), replace=False)
    for place in places:
        if not hasattr(place, '__index__'):
            yield place
            continue
        place = operator.index(place)
        yield Item(int(order[place]), seed, epoch, tuple(order[(place + distances) % count].tolist()))


def load_by_items(dataset: Any) -> None:
    """Has data loaders load a data set's items by what an :class:`Item` says; plain indices are loaded as before.

    It uses what torch's loaders ask a data set for first, ``__getitems__``. The data set stays the object that it is,
    so that hooks that change its pipeline still can. A shallow copy that is made of it later loads the items of the
    original: delete its ``__getitems__``.

    Args:
        dataset (Any): A data set or a wrapper, of any library. One that takes no attributes stays as it is.
    """
    if hasattr(dataset, '__dict__') and not isinstance(dataset.__dict__.get('__getitems__'), _Loading):
        dataset.__getitems__ = _Loading(dataset)


class _Loading:
    """Loads a batch of a data set."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __call__(self, indices: Sequence[int]) -> List[Any]:
        if not any(isinstance(index, Item) for index in indices):
            return [self._plain(index) for index in indices]
        with kept_random_state():
            return [self._item(index) if isinstance(index, Item) else self._plain(index) for index in indices]

    def _item(self, item: Item) -> Any:
        index = int(item)
        seed_generators(item.seed, Purpose.ITEM, item.epoch, index)
        with partners_among(self.dataset, index, item.others):
            return self._plain(index)

    def _plain(self, index: int) -> Any:
        own = getattr(type(self.dataset), '__getitems__', None)
        return self.dataset[index] if own is None else own(self.dataset, [index])[0]
