"""The sampler that shows the data loader the coreset, and nothing else, in each epoch."""

from math import ceil, gcd
from typing import Any, Iterator, Mapping, Optional, Sized, Union

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from mmacs.coreset.budget.fraction import epoch_sizes, read_fraction
from mmacs.coreset.selection.selectors import coreset_size
from mmacs.datasets.items import Item, items, load_by_items
from mmacs.registry import DATA_SAMPLERS
from mmacs.utils.checks import require_switch
from mmacs.utils.errors import MmacsError
from mmacs.utils.random_streams import Purpose, random_stream, require_seed


@DATA_SAMPLERS.register_module()
class CoresetSampler(Sampler):
    """Samples ``round(fraction * len(dataset))`` images per epoch, split evenly between processes.

    Its length is final from construction, so that learning-rate schedules and progress estimates are those of the
    coreset; with a schedule of the fraction it is the mean of all epochs, and in an epoch that epoch's own. Which
    images: those given by :meth:`set_indices` (:class:`mmacs.CoresetHook` does that); until then a random subset,
    re-drawn each epoch. Without a hook this is the baseline "repeated random" (RS2), and with ``redraw=False`` the
    static random subset. After :meth:`sweep` it shows all of the data in turn.

    Subset and order of an epoch are functions of seed, epoch and indices alone, not of the number of processes. Two
    seeds share neither. What the transforms of an image draw is one of seed, epoch and index, see
    :class:`mmacs.datasets.items.Item`, whatever the workers and batches. Other images that they ask for are of the
    epoch.

    Args:
        dataset (Sized): The data set.
        fraction (float or dict): Share of the images in each epoch, above 0 and at most 1. A dict is a schedule, see
            :class:`mmacs.coreset.budget.fraction.FractionSchedule`: epochs differ in size, and have as many images in
            all as with the mean of its ``start`` and ``end``. Its run must count epochs, and needs one of our hooks or
            ``mmacs train``, which know how many.
        shuffle (bool): Whether the coreset is shuffled in each epoch. Defaults to True.
        redraw (bool): Whether a random subset is drawn anew in each epoch. Defaults to True.
        seed (int, optional): Seed shared by all processes, from 0 to 2^63 - 1; None draws one.

    Attributes:
        fraction (float): The mean share of the images in an epoch.
        mean_size (int): Images in an epoch of that fraction.
        size (int): Images in the present epoch; the mean before the first one.
        schedule (FractionSchedule, optional): How the fraction changes, None if it doesn't.
        sizes (np.ndarray, optional): Images in each epoch by the schedule, int64; None before :meth:`plan`.
        sweep_start (int, optional): First epoch of a sweep through all data, None for none.

    Raises:
        MmacsError: If ``fraction`` or ``seed`` is out of range.
    """

    def __init__(
        self,
        dataset: Sized,
        fraction: Union[float, Mapping[str, Any]] = 1.0,
        shuffle: bool = True,
        redraw: bool = True,
        seed: Optional[int] = None,
    ) -> None:
        require_switch('shuffle', shuffle)
        require_switch('redraw', redraw)
        self.dataset = dataset
        self.fraction, self.schedule = read_fraction(fraction)
        self.sizes: Optional[np.ndarray] = None
        self.shuffle = shuffle
        self.redraw = redraw
        self.seed = sync_random_seed() if seed is None else require_seed('seed of CoresetSampler', seed)
        self.rank, self.world_size = get_dist_info()
        self.size = self.mean_size = coreset_size(self.fraction, len(dataset))
        load_by_items(dataset)
        self.epoch = 0
        self.indices: Optional[np.ndarray] = None
        self.sweep_start: Optional[int] = None

    def plan(self, epochs: int, batch: int, num_batches: int) -> None:
        """Give each epoch its size by the schedule of the fraction.

        Args:
            epochs (int): Epochs of the run.
            batch (int): Images per iteration, in all processes.
            num_batches (int): Iterations in an epoch of the mean size.
        """
        self.sizes = epoch_sizes(self.schedule, epochs, len(self.dataset), self.mean_size, batch, num_batches)

    def set_indices(self, indices: np.ndarray) -> None:
        """Train on these images from the next epoch on; ends a sweep.

        Args:
            indices (np.ndarray): Distinct data set indices, integer, shape (size,).

        Raises:
            MmacsError: If their number is not that of the coreset, or they are not distinct indices of the data set.
        """
        indices = np.asarray(indices, dtype=np.int64)
        distinct = np.unique(indices)
        if len(indices) != self.size or len(distinct) != self.size:
            raise MmacsError(f'the coreset holds {self.size} distinct images, got {len(distinct)} of {len(indices)}')
        if distinct[0] < 0 or distinct[-1] >= len(self.dataset):
            raise MmacsError(f'coreset indices must be from 0 to {len(self.dataset) - 1}')
        self.indices = indices
        self.sweep_start = None

    def sweep(self, start: int) -> None:
        """Show all of the data evenly from an epoch on: no image twice before every image was shown once.

        The epochs before that one are as they were. Each epoch of a sweep is a function of seed, ``start`` and epoch
        alone, see :func:`swept_indices`.

        Args:
            start (int): First epoch of the sweep.
        """
        self.sweep_start = start

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order :meth:`__iter__` gives."""
        self.epoch = epoch
        if self.sizes is not None:
            self.size = int(self.sizes[epoch])

    def epoch_indices(self) -> np.ndarray:
        """Returns the images of the current epoch in order, for all processes together, int64, shape (size,)."""
        images = len(self.dataset)
        indices = self.indices
        if self.sweep_start is not None and self.epoch >= self.sweep_start:
            indices = swept_indices(self.seed, self.epoch - self.sweep_start, self.size, images)
        elif indices is None:
            stream = random_stream(self.seed, Purpose.SUBSET, self.epoch if self.redraw else 0)
            if self.schedule is None or self.redraw:
                indices = stream.choice(images, self.size, replace=False, shuffle=False)
            else:  # one subset within the other
                indices = stream.permutation(images)[: self.size]
        if not self.shuffle:
            return np.sort(indices)
        return random_stream(self.seed, Purpose.ORDER, self.epoch).permutation(np.sort(indices))

    def __iter__(self) -> Iterator[Item]:
        """Images of this process; the first few images fill up an uneven split, as in MMEngine's samplers."""
        if self.schedule is not None and self.sizes is None:
            raise MmacsError(
                f'fraction={self.schedule} needs to know the number of epochs: train by `mmacs train`, or with '
                f'mmacs.CoresetHook or mmacs.QuantizationHook, or take a number'
            )
        order = self.epoch_indices()
        places = np.resize(np.arange(len(order)), len(self) * self.world_size)
        return items(order, places[self.rank :: self.world_size].tolist(), self.seed, self.epoch)

    def __len__(self) -> int:
        """Returns the number of images of one process in each epoch."""
        return ceil(self.size / self.world_size)


def swept_indices(seed: int, epoch: int, size: int, num_images: int) -> np.ndarray:
    """Returns the images that one epoch of a sweep shows.

    Epoch e holds entries e * size to (e + 1) * size of an endless row of permutations of all images. Where a
    permutation ends within an epoch, the next one is drawn so that its first images are none of those that the epoch
    has shown already. Each permutation so depends on the one before it, and all are drawn again from the last that
    began with an epoch: seconds for ten million images and a few passes over them.

    Args:
        seed (int): Not negative.
        epoch (int): Epoch of the sweep, from 0.
        size (int): Images per epoch, from 1 to ``num_images``.
        num_images (int): Images in all, N.

    Returns:
        np.ndarray: Distinct indices from 0 to N - 1, int64, shape (size,).
    """
    first, offset = divmod(epoch * size, num_images)
    last = ((epoch + 1) * size - 1) // num_images
    start = first - first % (size // gcd(size, num_images))
    row = random_stream(seed, Purpose.SWEEP, start).permutation(num_images)
    shown = row[offset : offset + size]
    for number in range(start + 1, last + 1):
        row = _next_permutation(row, number * num_images % size, size, random_stream(seed, Purpose.SWEEP, number))
        if number == first:
            shown = row[offset : offset + size]
    return shown if first == last else np.concatenate([shown, row[: size - len(shown)]])


def _next_permutation(row: np.ndarray, shown: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Returns a permutation whose first ``size - shown`` entries are none of the last ``shown`` entries of ``row``."""
    repeated = np.zeros(len(row), dtype=bool)
    repeated[row[len(row) - shown :]] = True
    fresh = rng.permutation(np.flatnonzero(~repeated))
    head, rest = fresh[: size - shown], fresh[size - shown :]
    return np.concatenate([head, rng.permutation(np.concatenate([rest, np.flatnonzero(repeated)]))])
