"""The sampler that shows the data loader the coreset, and nothing else, in each epoch."""

import math
from typing import Iterator, Optional, Sized

import numpy as np
import torch
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from mmacs.coreset.selectors import coreset_size
from mmacs.errors import MmacsError
from mmacs.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class CoresetSampler(Sampler):
    """Samples ``round(fraction * len(dataset))`` images per epoch, split evenly between processes.

    Its length is final from construction, so that learning-rate schedules and progress estimates are those of the
    coreset. Which images: those given by :meth:`set_indices` (:class:`mmacs.CoresetHook` does that); until then a
    random subset, re-drawn each epoch. Without a hook this is the baseline "repeated random" (RS2), and with
    ``redraw=False`` the static random subset.

    The order of an epoch is a function of seed, epoch and indices alone, not of the number of processes.

    Args:
        dataset (Sized): The data set.
        fraction (float): Share of the images in each epoch, above 0 and at most 1.
        shuffle (bool): Whether the coreset is shuffled in each epoch. Defaults to True.
        redraw (bool): Whether a random subset is drawn anew in each epoch. Defaults to True.
        seed (int, optional): Seed shared by all processes; None draws one.

    Raises:
        MmacsError: If ``fraction`` is out of range.
    """

    def __init__(
        self,
        dataset: Sized,
        fraction: float = 1.0,
        shuffle: bool = True,
        redraw: bool = True,
        seed: Optional[int] = None,
    ) -> None:
        self.dataset = dataset
        self.fraction = fraction
        self.shuffle = shuffle
        self.redraw = redraw
        self.seed = sync_random_seed() if seed is None else seed
        self.rank, self.world_size = get_dist_info()
        self.size = coreset_size(fraction, len(dataset))
        self.epoch = 0
        self.indices: Optional[np.ndarray] = None

    def set_indices(self, indices: np.ndarray) -> None:
        """Train on these images from the next epoch on.

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

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order :meth:`__iter__` gives."""
        self.epoch = epoch

    def epoch_indices(self) -> np.ndarray:
        """Images of the current epoch in order, for all processes together, int64, shape (size,)."""
        generator = torch.Generator()
        indices = self.indices
        if indices is None:
            generator.manual_seed(self.seed + (self.epoch if self.redraw else 0))
            indices = torch.randperm(len(self.dataset), generator=generator)[: self.size].numpy()
        if not self.shuffle:
            return np.sort(indices)
        generator.manual_seed(self.seed + self.epoch)
        return np.sort(indices)[torch.randperm(self.size, generator=generator).numpy()]

    def __iter__(self) -> Iterator[int]:
        """Images of this process; the first few images fill up an uneven split, as in MMEngine's samplers."""
        indices = np.resize(self.epoch_indices(), len(self) * self.world_size)
        return iter(indices[self.rank :: self.world_size].tolist())

    def __len__(self) -> int:
        """Number of images of one process in each epoch."""
        return math.ceil(self.size / self.world_size)
