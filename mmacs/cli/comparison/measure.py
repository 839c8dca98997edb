"""One run of a comparison: trains or calibrates, and says what came of it and what it took."""

import gc
import hashlib
import json
import math
import time
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmacs.cli import runs
from mmacs.cli.quantized_run import calibrate_runner, load_quantized
from mmacs.cli.runs import build_runner, take_work_dir
from mmacs.cli.surroundings import surroundings
from mmacs.quantization import disabled
from mmacs.utils.checkpoints import latest_checkpoint
from mmacs.utils.checks import is_number, is_whole
from mmacs.utils.errors import MmacsError

Result = Dict[str, Any]


class TrainingTime(Hook):
    """Adds up the seconds of training epochs, data loading included, and the images that steps were taken on.

    Rounds, validation and checkpoints are left out. Sums travel in the checkpoint, so that a resumed run has those of
    all its epochs.
    """

    priority = 'VERY_HIGH'  # CoresetHook's, so that no row is charged for what other hooks do after an epoch

    def __init__(self) -> None:
        self.seconds = 0.0
        self.images = 0

    def before_train(self, runner: Runner) -> None:
        """A run that starts has trained nothing, whatever the checkpoint of its weights says."""
        if runner.iter == 0:
            self.seconds, self.images = 0.0, 0

    def before_train_epoch(self, runner: Runner) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Count the images of a step."""
        self.images += len(data_batch['inputs'])

    def after_train_epoch(self, runner: Runner) -> None:
        """Stop the clock."""
        self.seconds += time.perf_counter() - self._start

    def before_save_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Put the sums into the checkpoint."""
        checkpoint['training_seconds'], checkpoint['trained_images'] = self.seconds, self.images

    def after_load_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Take up the sums of a resumed run."""
        seconds, images = checkpoint.get('training_seconds', 0.0), checkpoint.get('trained_images', 0)
        if not is_number(seconds) or seconds < 0:
            raise MmacsError(f'cannot resume: the checkpoint says that training took {seconds!r} seconds')
        if not is_whole(images) or images < 0:
            raise MmacsError(f'cannot resume: the checkpoint says that {images!r} images were trained on')
        self.seconds, self.images = seconds, images


def train(cfg: Config, *hooks: Hook) -> Dict[str, float]:
    """Train, going on from the last checkpoint if there is one.

    Args:
        cfg (Config): The run's config; changed in place.
        *hooks (Hook): Further hooks of the run.

    Returns:
        Dict[str, float]: All metrics of the evaluator after the last epoch.
    """
    with surroundings(cfg.work_dir):
        take_work_dir(cfg)
        latest = latest_checkpoint(cfg.work_dir)
        if latest is not None:
            cfg.resume, cfg.load_from = True, latest
        runner = build_runner(cfg, ['train_dataloader', 'val_dataloader'])
        for hook in hooks:
            runner.register_hook(hook)
        runs.train(runner)
        return _plain(runner.val())


def measure(cfg: Config, stage: str) -> Result:
    """Run one cell of a comparison.

    Args:
        cfg (Config): The run's config; changed in place.
        stage (str): ``'fp'``: the checkpoint as it is; ``'ptq'``: after calibration alone; ``'qat'``: trained.

    Returns:
        dict: ``metrics``, ``images``, ``training_seconds``, ``selection_seconds`` and ``coresets``, see
        :class:`mmacs.evaluation.comparison.Row`, as JSON can hold them.

    Raises:
        MmacsError: If a metric is no number, or the run cannot be made.
    """
    result: Result = dict(images=0, training_seconds=0.0, selection_seconds=0.0, coresets='')
    if stage == 'qat':
        clock = TrainingTime()
        result['metrics'] = train(cfg, clock)
        result.update(images=clock.images, training_seconds=clock.seconds)
        result.update(_selection(Path(cfg.work_dir) / 'coreset'))
    else:
        result['metrics'] = _calibrated(cfg, in_full_precision=stage == 'fp')
    for name in ('training_seconds', 'selection_seconds'):
        result[name] = round(result[name], 2)
    gc.collect()  # a runner is in cycles
    torch.cuda.empty_cache()
    wrong = [f'{name} {value}' for name, value in result['metrics'].items() if not math.isfinite(value)]
    if wrong:
        raise MmacsError(f'the evaluator gives no number: {", ".join(wrong)}')
    return result


def _selection(folder: Path) -> Result:
    """What a run with selection says of itself: it knows what of an epoch is selection."""
    summary = folder / 'summary.json'
    if not summary.is_file():
        return {}
    seconds = json.loads(summary.read_text())
    digests: List[str] = []
    for file in sorted(folder.glob('round_*.npz')):
        with np.load(file) as record:
            digests.append(str(record['digest']))
    coresets = hashlib.sha256(' '.join(digests).encode()).hexdigest()[:16] if digests else ''
    return {**{name: seconds[name] for name in ('training_seconds', 'selection_seconds')}, 'coresets': coresets}


def _calibrated(cfg: Config, in_full_precision: bool) -> Dict[str, float]:
    with surroundings(cfg.work_dir):
        runner = load_quantized(cfg, None)
        calibrate_runner(runner)
        if not in_full_precision:
            return _plain(runner.val())
        with disabled(runner.model):
            return _plain(runner.val())


def _plain(metrics: Dict[str, Any]) -> Dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


def first_metric(metrics: Dict[str, float]) -> Tuple[str, float]:
    """Name and value of the first of an evaluator's metrics, AP or top-1 accuracy; 0 where nothing is detected."""
    return next(((name, value) for name, value in metrics.items()), ('', 0.0))
