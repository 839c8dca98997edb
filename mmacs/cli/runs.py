"""The config, checks and runner that training and testing share."""

import argparse
import atexit
import gc
import os
from pathlib import Path
from typing import Any, List

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch.utils.data import Sampler

from mmacs.cli.config_file import change_config, read_config, read_options
from mmacs.cli.failures import parts
from mmacs.cli.screen import short_screen
from mmacs.datasets.data_paths import check_data, move_data_root
from mmacs.hooks.batches import require_a_batch
from mmacs.hooks.data_check import DataCheck
from mmacs.hooks.resume_hook import follow_config
from mmacs.hooks.summary_hook import summarise
from mmacs.hooks.work_dir import take
from mmacs.utils.checks import require_switch, require_whole
from mmacs.utils.errors import MmacsError
from mmacs.utils.files import misspelt
from mmacs.utils.type_names import type_name

# of a run that names no others: None leaves them out
_MMENGINE_HOOKS = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')


def load_config(args: argparse.Namespace) -> Config:
    """Read a config and apply the shared options to it.

    Raises:
        MmacsError: If the config, or something that it inherits, is not there, or it cannot be read or changed so.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read_config(args.config)
    cfg.launcher = args.launcher
    if args.verbose:
        cfg.log_level = 'DEBUG'
    if args.data_root is not None:
        move_data_root(cfg, args.data_root)
    if args.cfg_options is not None:
        change_config(cfg, read_options(args.cfg_options))
    if 'recipe' in cfg:
        raise MmacsError('recipe belongs to the model: model=dict(recipe=...), or --cfg-options model.recipe=...')
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(args.config).stem)
    return cfg


def require_one_process(cfg: Config, what: str = 'this command') -> None:
    """Refuse several processes where one does all the work.

    Raises:
        MmacsError: If a launcher is named.
    """
    if cfg.get('launcher', 'none') != 'none':
        raise MmacsError(f'{what} runs in one process: leave out --launcher {cfg.launcher}')


def take_work_dir(cfg: Config) -> None:
    """Keep other runs out of the work dir of a run that is to train, before MMEngine writes into it.

    Raises:
        MmacsError: If another run uses it, or it can't be written to.
    """
    ranks = (os.environ[name] for name in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK') if name in os.environ)
    if cfg.launcher == 'none' or next(ranks, '0') == '0':  # the main process holds it for all
        take(cfg.work_dir)


def build_runner(cfg: Config, loaders: List[str]) -> Runner:
    """Check that the data is there and build the runner.

    Args:
        cfg (Config): The whole config.
        loaders (List[str]): Data loaders that will be used, such as ``['test_dataloader']``.

    Returns:
        Runner: Of the type in ``cfg.runner_type``, by default MMEngine's own.

    Raises:
        MmacsError: If data is missing or is not what the config says.
    """
    for loader in loaders:
        if cfg.get(loader) is not None:
            check_loader(loader, cfg[loader])
    check_data(cfg, loaders)
    if 'train_dataloader' in loaders:
        _check_length(cfg)
    leave_out_hooks(cfg)
    if get_device() == 'cpu':
        compute_in_bfloat16(cfg)
    start = cfg.get('load_from')
    if start is not None and not isinstance(start, str):
        raise MmacsError(f'load_from must name a checkpoint, got {start!r}')
    if start and '://' not in start and not Path(start).exists():
        raise MmacsError(
            f'the checkpoint {start} is missing: train the config that ends with it first (for load_from, the one in '
            f'full precision), or name another one{misspelt(start)}'
        )
    if cfg.launcher != 'none' and not torch.cuda.is_available():
        _start_cpu_processes(cfg)
    with short_screen(cfg.get('log_level', 'INFO')):
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    follow_config(runner)
    summarise(runner)
    runner.register_hook(DataCheck())
    return runner


def train(runner: Runner) -> None:
    """Train, if there is anything to train on.

    Raises:
        MmacsError: If an epoch has no batch; MMEngine's schedules refuse that without saying why.
    """
    if runner.train_loop is not None:
        require_a_batch(runner.train_dataloader)
    runner.train()


def leave_out_hooks(cfg: Config) -> None:
    """Take hooks that are None out of a config; MMEngine does so with its own alone."""
    hooks = cfg.get('default_hooks')
    for name in [name for name, hook in hooks.items() if hook is None] if isinstance(hooks, dict) else ():
        if name not in _MMENGINE_HOOKS:
            del hooks[name]
    if isinstance(cfg.get('custom_hooks'), list):
        cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook is not None]


def compute_in_bfloat16(cfg: Config) -> None:
    """Give a config with mixed precision an optimizer wrapper that works without a GPU.

    Raises:
        MmacsError: If the config names a precision that a CPU does not have.
    """
    wrapper = cfg.get('optim_wrapper')
    kind = wrapper.get('type') if isinstance(wrapper, dict) else None
    if type_name(kind) != 'AmpOptimWrapper':
        return
    if wrapper.get('dtype') not in (None, 'bfloat16', torch.bfloat16):
        raise MmacsError(
            f'optim_wrapper.dtype={wrapper.dtype!r} needs a GPU, and there is none: take bfloat16, or OptimWrapper in '
            f'the place of AmpOptimWrapper'
        )
    for key in ('loss_scale', 'dtype', 'use_fsdp'):
        wrapper.pop(key, None)
    wrapper.type = 'mmacs.CpuAmpOptimWrapper'


def _check_length(cfg: Config) -> None:
    """Require a length of training, and a switch for whether it goes on.

    Raises:
        MmacsError: If a value is none.
    """
    length = cfg.get('train_cfg')
    for key in ('max_epochs', 'max_iters') if isinstance(length, dict) else ():
        if length.get(key) is not None:
            require_whole(f'train_cfg.{key}', length[key])
    if 'resume' in cfg:
        require_switch('resume', cfg.resume)


def check_loader(name: str, loader: Any, pipelines: bool = True) -> None:
    """Require of a data loader's config what MMEngine takes for granted.

    Args:
        name (str): Its key in the config.
        loader (Any): What is there.
        pipelines (bool): Whether data sets must have transforms. Defaults to True.

    Raises:
        MmacsError: If it is no dict, has no data set, one without transforms, or a sampler that is no dict.
    """
    for key, value in ((name, loader), (f'{name}.dataset', loader.get('dataset') if isinstance(loader, dict) else {})):
        if not isinstance(value, dict):
            raise MmacsError(f'{key} must be a dict with a type, got {value!r}')
    for key, part in parts(loader, name) if pipelines else ():
        inner = not isinstance(part, dict) or 'dataset' in part or 'datasets' in part
        pipeline = None if inner else part.get('pipeline')
        if pipeline is not None and not (isinstance(pipeline, (list, tuple)) and pipeline):
            raise MmacsError(f'{key}.pipeline must be a list of transforms (dicts with a type), got {pipeline!r}')
    sampler = loader.get('sampler')
    if not isinstance(sampler, (dict, Sampler, type(None))):
        example = "dict(type='DefaultSampler', shuffle=True)"
        raise MmacsError(f'{name}.sampler must be a dict with a type, such as {example}, got {sampler!r}')


def _start_cpu_processes(cfg: Config) -> None:
    """Have several processes train on the CPU, which MMEngine's launchers, made for GPUs, don't."""
    if cfg.launcher != 'pytorch':
        raise MmacsError(f'--launcher {cfg.launcher} needs GPUs, on the CPU there is --launcher pytorch')
    if 'RANK' not in os.environ:
        raise MmacsError('--launcher pytorch is for processes that torchrun starts, which it did not here')
    torch.distributed.init_process_group('gloo')
    atexit.register(_stop_cpu_processes)
    wrapper = {'type': 'MMDistributedDataParallel', 'broadcast_buffers': False}
    wrapper['find_unused_parameters'] = cfg.get('find_unused_parameters', False)
    cfg.setdefault('model_wrapper_cfg', wrapper)
    cfg.model_wrapper_cfg.setdefault('device_ids', None)


def _stop_cpu_processes() -> None:
    """End gloo's threads, which abort a process that ends before them."""
    gc.collect()  # a runner that is in a cycle keeps the distributed model, and so the threads
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
