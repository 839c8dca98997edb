"""What a report says of a run beside its rounds, as JSON: a report executes no config of a work dir."""

import inspect
import json
import os
from pathlib import Path
from typing import Any, Dict, Optional

from mmengine.config import Config

from mmacs.coreset.settings import CoresetSettings
from mmacs.datasets.data_paths import data_sets
from mmacs.utils.files import atomic_path
from mmacs.utils.type_names import type_name


def describe_run(cfg: Config, settings: Optional[CoresetSettings] = None) -> Dict[str, Any]:
    """Returns what a config says of a run, as values that JSON can hold.

    Args:
        cfg (Config): The whole config.
        settings (CoresetSettings, optional): What its selection came to, with all defaults.

    Returns:
        dict: ``name``, ``unit`` (``'epoch'`` or ``'iteration'``, what the run counts in), ``end`` (how many of them it
        trains), ``data_root`` of the training data (None if there is none), ``settings``, a dict of texts such as
        ``{'schedule': 'interval=4'}``: those in force, or without ``settings`` those that the config gives, and
        ``scores``, what each score is by name, without ``settings`` of none.
    """
    by_epoch = 'max_epochs' in cfg.train_cfg
    roots = [found['data_root'] for found in data_sets(cfg.get('train_dataloader'))]
    return {
        'name': Path(cfg.filename or cfg.get('work_dir') or 'run').stem,
        'unit': 'epoch' if by_epoch else 'iteration',
        'end': cfg.train_cfg.max_epochs if by_epoch else cfg.train_cfg.max_iters,
        'data_root': str(roots[0]) if roots else None,
        'settings': _given(cfg) if settings is None else {**_of_run(cfg), **_in_force(settings)},
        'scores': {} if settings is None else _scores(settings),
    }


def write_run(path: os.PathLike, cfg: Config, settings: Optional[CoresetSettings] = None) -> None:
    """Write what :func:`describe_run` returns."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(describe_run(cfg, settings), indent=2) + '\n')


def _of_run(cfg: Config) -> Dict[str, str]:
    """Returns what the coreset's run is beside its selection."""
    model, loader = cfg.get('model') or {}, cfg.get('train_dataloader') or {}
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer')
    facts = {
        'model': model.get('model') or model.get('type'),
        'recipe': model.get('recipe'),
        'starts from': cfg.get('load_from'),
        'data': (loader.get('dataset') or {}).get('ann_file'),
        'images per batch': loader.get('batch_size'),
        'sampler': loader.get('sampler'),
        'optimizer': optimizer,
        'seed': (cfg.get('randomness') or {}).get('seed'),
    }
    return {key: _written(value) for key, value in facts.items() if value is not None}


def _in_force(settings: CoresetSettings) -> Dict[str, str]:
    """Returns the settings of a selection, with all defaults."""
    groups = {
        'preset': settings.preset,
        'scorer': settings.scorer,
        'importance': settings.importance,
        'selector': settings.policy.selector,
        'constraints': settings.policy.constraints,
        'schedule': settings.schedule,
        'cost': settings.cost,
        'unbiased': settings.max_weight,
        'scoring batch size': settings.images.batch_size,
    }
    return {key: _with_defaults(value) for key, value in groups.items() if value is not None}


def _scores(settings: CoresetSettings) -> Dict[str, str]:
    """Returns what the scorer says of each score that is known of images."""
    said = settings.scorer.columns
    return {name: said[name] for name in settings.columns if said.get(name)}


def _with_defaults(value: Any) -> str:
    """Returns an object of a config as the config would have it, such as ``TopK(temperature=0.5)``."""
    if isinstance(value, (str, int, float)):
        return str(value)
    names = [name for name in inspect.signature(type(value)).parameters if hasattr(value, name)]
    parts = ((name, getattr(value, name)) for name in names)
    arguments = [
        f'{name}={_with_defaults(part) if type(part).__module__.startswith("mmacs.") else repr(part)}'
        for name, part in parts
    ]
    return f'{type(value).__name__}({", ".join(arguments)})'


def coreset_hook_config(cfg: Config) -> Dict[str, Any]:
    """Returns what a config says of its :class:`mmacs.CoresetHook`, nothing if it has none."""
    hooks = [*(cfg.get('default_hooks') or {}).values(), *(cfg.get('custom_hooks') or [])]
    return next((hook for hook in hooks if isinstance(hook, dict) and type_name(hook.get('type')) == 'CoresetHook'), {})


def _given(cfg: Config) -> Dict[str, str]:
    return {key: _written(value) for key, value in coreset_hook_config(cfg).items() if key not in ('type', 'pipeline')}


def _written(value: Any) -> str:
    """Returns a part of a config on one line."""
    if not isinstance(value, dict):
        return str(value)
    arguments = ', '.join(f'{key}={_written(part)}' for key, part in value.items() if key != 'type')
    return f'{type_name(value["type"])}{f"({arguments})" if arguments else ""}' if 'type' in value else arguments
