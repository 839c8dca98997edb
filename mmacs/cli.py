"""What the commands under ``tools/`` share: their options, and one sentence for a user's mistake."""

import argparse
import os
import re
import sys
from pathlib import Path
from pickle import UnpicklingError
from typing import Callable, List, Optional

import mmengine.registry
import torch
from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS, Registry
from mmengine.runner import Runner

from mmacs.data_paths import check_data, move_data_root
from mmacs.errors import MmacsError, unknown_name


def run(main: Callable[[], None]) -> None:
    """Run a command; answer a user's mistake with one sentence on stderr and exit status 1, without a traceback.

    Other exceptions keep their traceback: they are bugs. Checkpoints are loaded with ``weights_only=True`` whatever
    the caller of ``torch.load`` asks for.
    """
    os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'
    try:
        main()
    except Exception as error:
        sentence = explain(error)
        if sentence is None:
            raise
        print(f'error: {sentence}', file=sys.stderr)
        sys.exit(1)


def explain(error: BaseException) -> Optional[str]:
    """One sentence about an exception that a user can put right, None for any other."""
    # Data loader workers and MMEngine's builders put text of their own around the message.
    message = re.sub(r'^class `\w+` in \S+?: ', '', str(error).strip().split('MmacsError: ')[-1])
    unregistered = re.match(r"""['"]?(\S+) is not in the (?:\S+::)?(.+?) registry""", message)
    if unregistered:
        name, registry = unregistered.groups()
        return str(unknown_name(registry, name, _registered(registry)))
    if isinstance(error, UnpicklingError):
        culprit = re.search(r'GLOBAL (\S+)', message)
        return (
            'the checkpoint is damaged, or holds something other than weights and plain values'
            f'{f" ({culprit.group(1)})" if culprit else ""}, and is not loaded'
        )
    if isinstance(error, (MmacsError, FileNotFoundError)) or 'failed to load image' in message:
        return message.splitlines()[-1]
    return None


def _registered(registry_name: str) -> List[str]:
    """Names in a registry of MMEngine's and in its children, these with their scope."""
    names = []
    registries = [value for value in vars(mmengine.registry).values() if isinstance(value, Registry)]
    for registry in registries:
        if registry.name == registry_name:
            names += registry.module_dict
            for scope, child in registry.children.items():
                names += [f'{scope}.{name}' if scope == 'mmacs' else name for name in child.module_dict]
    return names


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
    cfg.launcher = args.launcher
    if args.data_root is not None:
        move_data_root(cfg, args.data_root)
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(args.config).stem)
    return cfg


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
    if cfg.launcher != 'none' and not torch.cuda.is_available():
        _start_cpu_processes(cfg)
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def _start_cpu_processes(cfg: Config) -> None:
    """Have several processes train on the CPU, which MMEngine's launchers, made for GPUs, don't."""
    if cfg.launcher != 'pytorch':
        raise MmacsError(f'--launcher {cfg.launcher} needs GPUs, on the CPU there is --launcher pytorch')
    torch.distributed.init_process_group('gloo')
    cfg.setdefault('model_wrapper_cfg', {'type': 'MMDistributedDataParallel', 'broadcast_buffers': False})
    cfg.model_wrapper_cfg.setdefault('device_ids', None)
