"""A model under measurement: part of the validation images, the metric on them, and calibration as in training."""

import hashlib
import io
import json
import math
from contextlib import redirect_stdout
from typing import Any, Dict, Iterator, List, Optional

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from torch.utils.data import Dataset, Sampler

from mmacs.commands import build_runner
from mmacs.coreset.teacher import fingerprint, full_precision_weights
from mmacs.data_paths import check_data
from mmacs.errors import MmacsError
from mmacs.hooks.quantization_hook import QuantizationHook
from mmacs.hooks.run import unwrapped
from mmacs.quantization import quantizers


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
        """Number of images."""
        return len(self.indices)


class Validation:
    """The validation loop of a run on some of its images, without the hooks, logs and prints around it.

    Args:
        runner (Runner): The run.
        num_images (int): Number of images, spread evenly over the validation data.

    Attributes:
        metric (str): Name of the metric, the first that the evaluator gives; known after the first :meth:`score`.
        num_images (int): Number of images, at most that of the data set.

    Raises:
        MmacsError: If the number is below one, or the config has no validation.
    """

    def __init__(self, runner: Runner, num_images: int) -> None:
        if num_images < 1:
            raise MmacsError(f'the number of images must be at least 1, got {num_images}')
        if not runner.cfg.get('val_dataloader') or not runner.cfg.get('val_evaluator'):
            raise MmacsError('the config has no val_dataloader and val_evaluator to measure with')
        self.model = unwrapped(runner)
        loader = {**runner.cfg.val_dataloader, 'sampler': {'type': SpreadSampler, 'count': num_images}}
        with _quiet():
            self.loader = runner.build_dataloader(loader)
            self.evaluator = runner.build_evaluator(runner.cfg.val_evaluator)
        self.metric: Optional[str] = None
        dataset = self.loader.dataset
        sampler = self.loader.sampler if isinstance(self.loader.sampler, SpreadSampler) else None
        self.indices = (sampler or self.loader.batch_sampler.sampler).indices
        self.num_images = len(self.indices)
        self.evaluator.dataset_meta = dataset.metainfo
        for metric in self.evaluator.metrics:
            if hasattr(metric, 'img_ids'):  # COCO's metrics count objects of all images in the annotation file
                metric.img_ids = [dataset.get_data_info(index)['img_id'] for index in self.indices]

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
        for batch in self.loader:
            self.evaluator.process(self.forward(batch), batch)
        with _quiet():
            metrics: Dict[str, float] = self.evaluator.evaluate(self.num_images)
        if self.metric is None:
            self.metric, value = next(iter(metrics.items()), (None, math.nan))
            if not value >= 0:
                raise MmacsError(
                    f'the metric has no value on {self.num_images} validation images, since they show no object or '
                    f'nothing is detected: use more images, or a trained checkpoint'
                )
        return float(metrics.get(self.metric, 0.0))  # COCO's have no value where nothing at all is detected


def load_quantized(cfg: Config, checkpoint: Optional[str]) -> Runner:
    """Build a runner whose model has loaded a checkpoint; nothing but warnings is logged.

    Args:
        cfg (Config): Config of a quantized model; changed in place.
        checkpoint (str, optional): The checkpoint, in full precision or quantized; by default the config's load_from.

    Raises:
        MmacsError: If there is no checkpoint, it doesn't fit, or nothing of the model is quantized.
    """
    cfg.load_from, cfg.resume, cfg.log_level = checkpoint or cfg.get('load_from'), False, 'WARNING'
    if cfg.load_from is None:
        raise MmacsError('name a checkpoint: the config has no load_from')
    runner = build_runner(cfg, ['val_dataloader'])
    if next(quantizers(unwrapped(runner)), None) is None:
        raise MmacsError(
            "nothing of this model is quantized: give the config model=dict(type='mmacs.QuantizedModel', ...) with a "
            'recipe'
        )
    runner.load_or_resume()
    return runner


def calibrate_runner(runner: Runner) -> None:
    """Calibrate quantizers without a range on training images, as :class:`mmacs.QuantizationHook` of the run does.

    Raises:
        MmacsError: If training data is missing.
    """
    check_data(runner.cfg, ['train_dataloader'])
    with _quiet():
        _quantization_hook(runner).calibrate(runner)


def _quantization_hook(runner: Runner) -> QuantizationHook:
    return next((hook for hook in runner.hooks if isinstance(hook, QuantizationHook)), QuantizationHook())


def conditions(runner: Runner, num_images: int) -> Dict[str, Any]:
    """What measurements on validation images depend on, as values that JSON can hold.

    Args:
        runner (Runner): The run, whose model has its checkpoint and is as its config says.
        num_images (int): Number of validation images.

    Returns:
        dict: Fingerprints of the config (model, data, metric, calibration) and of the full-precision weights, number
        of images.
    """
    parts = [runner.cfg.get(name) for name in ('model', 'train_dataloader', 'val_dataloader', 'val_evaluator')]
    hook = _quantization_hook(runner)
    parts += [hook.num_images, hook.batch_size, unwrapped(runner).recipe]
    text = json.dumps(parts, sort_keys=True, default=str)
    return {
        'config': hashlib.sha256(text.encode()).hexdigest()[:16],
        'checkpoint': fingerprint(full_precision_weights(unwrapped(runner))),
        'images': num_images,
    }


def _quiet() -> redirect_stdout:
    """Keep what pycocotools prints off the terminal."""
    return redirect_stdout(io.StringIO())
