"""A model under measurement: part of the validation images, and the metric on them."""

import hashlib
import io
import math
from contextlib import redirect_stdout
from typing import Any, Dict, Iterator, List, Optional

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from torch.utils.data import Dataset, Sampler

from mmacs.coreset.annotations import encode
from mmacs.coreset.image_contents import hash_inputs
from mmacs.hooks.data_check import check_classes
from mmacs.hooks.run import unwrapped
from mmacs.utils.errors import MmacsError
from mmacs.utils.progress import phase


class SpreadSampler(Sampler):
    """A number of images spread evenly over a data set, which may be sorted by class.

    Args:
        dataset (Dataset): The data set.
        count (int): Number of images; all if the data set has no more.
        seed (int, optional): Not used: the choice is always the same.
    """

    def __init__(self, dataset: Dataset, count: int, seed: Optional[int] = None) -> None:
        self.dataset = dataset
        self.indices = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int).tolist()

    def __iter__(self) -> Iterator[int]:
        """Indices into the data set."""
        return iter(self.indices)

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.indices)


class Validation:
    """The validation loop of a run on some of its images, without the hooks, logs and prints around it.

    Args:
        runner (Runner): The run.
        num_images (int): Number of images, spread evenly over the validation data.
        split (str): ``'val'``, or ``'test'`` for the test data with its evaluator. Defaults to ``'val'``.

    Attributes:
        metric (str): Name of the metric, the first that the evaluator gives; known after the first :meth:`score`.
        num_images (int): Number of images, at most that of the data set.

    Raises:
        MmacsError: If the number is below one, or the config has no such data.
    """

    def __init__(self, runner: Runner, num_images: int, split: str = 'val') -> None:
        if num_images < 1:
            raise MmacsError(f'the number of images must be at least 1, got {num_images}')
        data, evaluator = (runner.cfg.get(f'{split}_{part}') for part in ('dataloader', 'evaluator'))
        if not data or not evaluator:
            raise MmacsError(f'the config has no {split}_dataloader and {split}_evaluator to measure with')
        self.model = unwrapped(runner)
        loader = {**data, 'sampler': {'type': SpreadSampler, 'count': num_images}}
        with quiet():
            self.loader = runner.build_dataloader(loader)
            self.evaluator = runner.build_evaluator(evaluator)
        self.metric: Optional[str] = None
        dataset = self.loader.dataset
        check_classes(self.model, dataset, f'{split}_dataloader')
        sampler = self.loader.sampler if isinstance(self.loader.sampler, SpreadSampler) else None
        self.indices = (sampler or self.loader.batch_sampler.sampler).indices
        self.num_images = len(self.indices)
        self.evaluator.dataset_meta = dataset.metainfo
        for metric in self.evaluator.metrics:
            if hasattr(metric, 'img_ids'):  # COCO's metrics count objects of all images in the annotation file
                metric.img_ids = [dataset.get_data_info(index)['img_id'] for index in self.indices]

    def digest(self) -> str:
        """Hash of what the metric is measured on: the images as the model gets them, and their annotations."""
        digest = hashlib.sha256()
        with phase('reading validation images', len(self.indices)) as under_way:
            for index in under_way.each(self.indices):
                info = self.loader.dataset.get_data_info(index)
                digest.update(hash_inputs(self.loader.dataset[index]))
                digest.update(encode([info.get('instances'), info.get('gt_label')]).encode())
        return digest.hexdigest()[:16]

    def forward(self, batch: Any) -> Any:
        """Predict for a batch of the loader, without gradients."""
        with torch.no_grad():
            return self.model.val_step(batch)

    def forward_one(self) -> Any:
        """Predict for the first image alone."""
        self.model.eval()
        return self.forward(self._first())

    def input_shape(self) -> List[int]:
        """Shape (channels, height, width) in which the model gets the first image alone, padding included."""
        return list(self.model.data_preprocessor(self._first(), False)['inputs'].shape[1:])

    def _first(self) -> Any:
        return pseudo_collate([self.loader.dataset[self.indices[0]]])

    def score(self) -> float:
        """The metric of the model as it is now.

        Raises:
            MmacsError: If the first time there is nothing to measure: no object in the images, or nothing detected.
        """
        self.model.eval()
        with phase('evaluation', len(self.loader), 'batches') as under_way:
            for batch in under_way.each(self.loader):
                self.evaluator.process(self.forward(batch), batch)
            with quiet():
                metrics: Dict[str, float] = self.evaluator.evaluate(self.num_images)
        if self.metric is None:
            self.metric, value = next(iter(metrics.items()), (None, math.nan))
            if not value >= 0:
                raise MmacsError(
                    f'the metric has no value on {self.num_images} validation images, since they show no object or '
                    f'nothing is detected: use more images, or a trained checkpoint'
                )
        return float(metrics.get(self.metric, 0.0))  # COCO's have no value where nothing at all is detected


def quiet() -> redirect_stdout:
    """Keeps what pycocotools prints off the terminal."""
    return redirect_stdout(io.StringIO())
