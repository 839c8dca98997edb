"""Tables of many trainings from one config: cells that are resumed, never repeated, and never mixed up."""

import argparse
import copy
import gc
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Mapping, Tuple

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner

from mmacs.cli import commands
from mmacs.cli.commands import build_runner, load_config, take_work_dir
from mmacs.cli.surroundings import surroundings
from mmacs.coreset.annotations import read_annotations
from mmacs.datasets.data_paths import check_data
from mmacs.datasets.distinct_images import DistinctImages
from mmacs.utils.checkpoints import latest_checkpoint
from mmacs.utils.checks import is_number
from mmacs.utils.errors import MmacsError, unknown_name
from mmacs.utils.files import write_whole
from mmacs.version import __version__


class TrainingTime(Hook):
    """Adds up the seconds of training epochs, data loading included; rounds, validation and checkpoints excluded.

    Sums travel in the checkpoint, so that a resumed run has those of all its epochs.
    """

    priority = 'VERY_HIGH'  # CoresetHook's, so that no row is charged for what other hooks do after an epoch

    def __init__(self) -> None:
        self.seconds = 0.0

    def before_train(self, runner: Runner) -> None:
        """A run that starts has trained nothing, whatever the checkpoint of its weights says."""
        if runner.iter == 0:
            self.seconds = 0.0

    def before_train_epoch(self, runner: Runner) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def after_train_epoch(self, runner: Runner) -> None:
        """Stop the clock."""
        self.seconds += time.perf_counter() - self._start

    def before_save_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Put the sum into the checkpoint."""
        checkpoint['training_seconds'] = self.seconds

    def after_load_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Take up the sum of a resumed run."""
        seconds = checkpoint.get('training_seconds', 0.0)
        if not is_number(seconds) or seconds < 0:
            raise MmacsError(f'cannot resume: the checkpoint says that training took {seconds!r} seconds')
        self.seconds = seconds


def prepare(args: argparse.Namespace, prefix: str) -> Tuple[Config, Path]:
    """Read the config of a comparison.

    Args:
        args (argparse.Namespace): Options of :func:`mmacs.cli.commands.common_parser`.
        prefix (str): What the default folder's name begins with.

    Returns:
        Tuple[Config, Path]: The config and the folder of the comparison.

    Raises:
        MmacsError: If the comparison would run in several processes.
    """
    cfg = load_config(args)
    if cfg.launcher != 'none':
        raise MmacsError('a comparison trains one cell after the other in one process: leave --launcher out')
    return cfg, Path(cfg.work_dir) if args.work_dir else Path('work_dirs') / f'{prefix}_{Path(args.config).stem}'


def require_known(methods: Iterable[str], known: Mapping[str, Any]) -> None:
    """Refuse names that don't exist.

    Raises:
        MmacsError: If there is no such method.
    """
    for method in methods:
        if method not in known:
            raise unknown_name('method', method, known)


def cell_config(cfg: Config, name: str, folder: Path) -> Config:
    """A copy of the config with what all cells have in common.

    Args:
        cfg (Config): Config of the comparison.
        name (str): The cell's, unlike those of others.
        folder (Path): The cell's work dir.
    """
    cell = copy.deepcopy(cfg)
    cell.work_dir = str(folder)
    cell.default_hooks.checkpoint.max_keep_ckpts = 1
    cell.visualizer.name = name  # visualizers live as long as the process
    return cell


def read_data(cfg: Config) -> str:
    """Read each image's file once, so that the first cell is not alone to pay for a cold file cache.

    Returns:
        str: Hash of the contents of the training and validation data, so that cells of other data are told apart.

    Raises:
        MmacsError: If data is missing.
    """
    loaders = [name for name in ('train_dataloader', 'val_dataloader') if cfg.get(name)]
    check_data(cfg, loaders)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    digest = hashlib.sha256()
    for name in loaders:
        arrays = read_annotations(DistinctImages(DATASETS.build(cfg[name].dataset), []))
        digest.update(str(arrays['fingerprint']).encode() + arrays['others'].tobytes())
        for path in map(Path, map(os.fsdecode, arrays['paths'].tolist())):
            if path.is_file():
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def train(cfg: Config, *hooks: Hook) -> Dict[str, float]:
    """Train, going on from the last checkpoint if there is one.

    Args:
        cfg (Config): The cell's config; changed in place.
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
        commands.train(runner)
        return {name: float(value) for name, value in runner.val().items()}


def first_metric(metrics: Dict[str, float]) -> float:
    """The first of an evaluator's metrics, which is AP or top-1 accuracy; 0 where nothing at all is detected."""
    return float(next(iter(metrics.values()), 0.0))


def fill(cfg: Config, folder: Path, stages: Dict[str, Callable[[Config], Any]], data: str) -> Dict[str, Any]:
    """Compute what is missing of one cell and read the rest from its ``result.json``.

    Args:
        cfg (Config): The cell's config.
        folder (Path): The cell's folder.
        stages (Dict[str, Callable]): What to compute of a copy of the config, by name; results are what JSON can hold.
        data (str): From :func:`read_data`.

    Returns:
        dict: Results by name, and under ``'settings'`` the hash of the config and of the checkpoint it starts from.

    Raises:
        MmacsError: If the folder holds results of other settings or other data, or what it holds is damaged.
    """
    file = folder / 'result.json'
    settings = {key: value for key, value in cfg.to_dict().items() if key != 'work_dir'}
    settings['mmacs'] = __version__  # whose defaults the config leaves unsaid
    start = Path(cfg.get('load_from') or '')
    if start.is_file():
        settings['load_from_sha256'] = hashlib.sha256(start.read_bytes()).hexdigest()[:16]
    under = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]
    result = _read_result(file) if file.exists() else {'settings': under}
    for what, now in (('settings', under), ('data', data)):
        if result.setdefault(what, now) != now:
            raise MmacsError(
                f'{file} was computed under other {what}, or by another version of mmacs: choose another --work-dir, '
                f'or delete {folder}'
            )
    for stage, compute in stages.items():
        if stage not in result:
            result[stage] = compute(copy.deepcopy(cfg))
            write_whole(file, (json.dumps(result) + '\n').encode())
            gc.collect()  # a runner is in cycles, and would keep its model while the next one trains
            torch.cuda.empty_cache()
    return result


def _read_result(file: Path) -> Dict[str, Any]:
    try:
        result = json.loads(file.read_text())
        if not isinstance(result, dict) or not isinstance(result.get('settings'), str):
            raise ValueError('it holds no results')
    except (OSError, ValueError, RecursionError) as error:
        raise MmacsError(f'{file} is damaged ({error}): delete it, and its cell is computed anew') from error
    return result
