"""The options, checks and runner that training and testing share."""

import argparse
import atexit
import gc
import os
from pathlib import Path
from typing import List

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmacs.datasets.data_paths import check_data, move_data_root
from mmacs.hooks.work_dir import take
from mmacs.utils.errors import MmacsError


def common_parser(description: str) -> argparse.ArgumentParser:
    """Parser with the options that training and testing share, those that MMDetection users expect."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints; default: work_dirs/<name of the config>')
    parser.add_argument('--data-root', help="folder of the data set, in place of the config's data_root")
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='settings to change in the config, such as train_dataloader.sampler.fraction=0.1',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by torch.distributed.launch')
    return parser


def load_config(args: argparse.Namespace) -> Config:
    """Read a config and apply the shared options to it.

    Raises:
        MmacsError: If the config, or something that it inherits, is not there.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    try:
        cfg = Config.fromfile(args.config)
    except FileNotFoundError as error:
        raise MmacsError(f'no such config: {error}') from error
    except ImportError as error:
        raise _failed_import(error) from error
    except ValueError as error:
        if '_get_package_and_cfg_path' not in str(error):
            raise
        raise MmacsError(
            'a config that is inherited from a package is named with its folder, such as '
            'mmacs::retinanet/retinanet_r18_w4a4_acs.py'
        ) from error
    cfg.launcher = args.launcher
    if args.data_root is not None:
        move_data_root(cfg, args.data_root)
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    if 'recipe' in cfg:
        raise MmacsError('recipe belongs to the model: model=dict(recipe=...), or --cfg-options model.recipe=...')
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(args.config).stem)
    return cfg


def _failed_import(error: ImportError) -> MmacsError:
    """Say what failed at the bottom of an import that MMEngine tried."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__
    if str(getattr(error, 'name', None) or '').startswith('mmacs.'):
        why = 'it moved in 0.2, see "Moved modules" in CHANGELOG.md; what is public is imported from mmacs itself'
    else:
        why = 'is its folder on PYTHONPATH?'
    return MmacsError(f'cannot import what custom_imports names ({error}): {why}')


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
    check_data(cfg, loaders)
    start = cfg.get('load_from')
    if start and '://' not in start and not Path(start).exists():
        raise MmacsError(
            f'the checkpoint {start} is missing: train the full-precision config that ends with it first, or set '
            f'load_from to another one'
        )
    if cfg.launcher != 'none' and not torch.cuda.is_available():
        _start_cpu_processes(cfg)
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


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
