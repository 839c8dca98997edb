"""The training images that quantizers are calibrated on."""

from typing import Any, Dict, Iterator

import numpy as np
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner

from mmacs.datasets.distinct_images import DistinctImages
from mmacs.hooks.run import deterministic_pipeline, unwrapped
from mmacs.utils.progress import Phase


class CalibrationBatches:
    """Training images, spread evenly over the data, under the deterministic pipeline, in preprocessed batches.

    Each pass over them loads them anew.

    Args:
        runner (Runner): The run.
        num_images (int): Number of images, at most all.
        batch_size (int): Images per batch.

    Attributes:
        count (int): Number of images.
    """

    def __init__(self, runner: Runner, num_images: int, batch_size: int) -> None:
        self._images = DistinctImages(runner.train_dataloader.dataset, deterministic_pipeline(runner.cfg))
        self._prepare = unwrapped(runner).data_preprocessor
        self._batch_size = batch_size
        self.count = min(num_images, len(self._images))

    def __iter__(self) -> Iterator[Dict[str, Any]]:
        """Gives what a model takes as keyword arguments."""
        chosen = np.linspace(0, len(self._images) - 1, self.count).astype(int).tolist()
        for start in range(0, self.count, self._batch_size):
            batch = [self._images[position] for position in chosen[start : start + self._batch_size]]
            yield self._prepare(pseudo_collate(batch), False)

    def shown(self, under_way: Phase) -> Iterator[Dict[str, Any]]:
        """Gives the batches, and tells a phase of as many images how far they have come."""
        for batch in self:
            yield batch
            under_way.advance(len(batch['inputs']))
