"""What a report says of a run beside its rounds, as JSON: a report executes no config of a work dir."""

import json
import os
from pathlib import Path
from typing import Any, Dict

from mmengine.config import Config

from mmacs.datasets.data_paths import data_sets
from mmacs.utils.files import atomic_path


def describe_run(cfg: Config) -> Dict[str, Any]:
    """Returns what a config says of a run, as values that JSON can hold.

    Args:
        cfg (Config): The whole config.

    Returns:
        dict: ``name``, ``unit`` (``'epoch'`` or ``'iteration'``, what the run counts in), ``end`` (how many of them it
        trains), ``data_root`` of the training data (None if there is none), and ``settings`` of the selection, a dict
        of texts such as ``{'schedule': 'interval=4'}``.
    """
    by_epoch = 'max_epochs' in cfg.train_cfg
    roots = [found['data_root'] for found in data_sets(cfg.get('train_dataloader'))]
    return {
        'name': Path(cfg.filename or cfg.get('work_dir') or 'run').stem,
        'unit': 'epoch' if by_epoch else 'iteration',
        'end': cfg.train_cfg.max_epochs if by_epoch else cfg.train_cfg.max_iters,
        'data_root': str(roots[0]) if roots else None,
        'settings': _settings(cfg),
    }


def write_run(path: os.PathLike, cfg: Config) -> None:
    """Write what :func:`describe_run` returns."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(describe_run(cfg), indent=2) + '\n')


def _settings(cfg: Config) -> Dict[str, str]:
    def name(value: Any) -> str:
        return str(value).split('.')[-1].strip("'>")  # of a registered name, or of a class

    def written(value: Any) -> str:
        if not isinstance(value, dict):
            return str(value)
        arguments = ', '.join(f'{key}={written(part)}' for key, part in value.items() if key != 'type')
        return f'{name(value["type"])}{f"({arguments})" if arguments else ""}' if 'type' in value else arguments

    hooks = [*(cfg.get('default_hooks') or {}).values(), *(cfg.get('custom_hooks') or [])]
    ours = next((hook for hook in hooks if isinstance(hook, dict) and name(hook.get('type')) == 'CoresetHook'), {})
    return {key: written(value) for key, value in ours.items() if key not in ('type', 'pipeline')}
