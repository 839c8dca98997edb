"""Where a config's data sets lie: pointing them elsewhere, and saying what is missing before a run starts."""

import os
from pathlib import Path
from typing import Any, Dict, Iterator, List

from mmengine.config import Config

from mmacs.datasets.config_classes import check_classes
from mmacs.utils.errors import MmacsError
from mmacs.utils.type_names import type_name

_EVALUATORS = ('val_evaluator', 'test_evaluator')
_LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
# Data sets that fetch or make their files by themselves.
_SELF_PROVIDING = ('CIFAR10', 'CIFAR100', 'MNIST', 'FashionMNIST', 'EmbeddedDetection', 'EmbeddedClassification')


def data_sets(cfg: Any) -> Iterator[Dict[str, Any]]:
    """Configs of the data sets in (part of) a config that name a ``data_root``, whatever wraps them."""
    if isinstance(cfg, (list, tuple)):
        for part in cfg:
            yield from data_sets(part)
    elif isinstance(cfg, dict):
        if cfg.get('data_root') and isinstance(cfg['data_root'], (str, os.PathLike)):
            yield cfg
        for part in cfg.values():
            yield from data_sets(part)


def move_data_root(cfg: Config, root: str) -> None:
    """Point a config at a data set that lies elsewhere.

    Every path in data loaders and evaluators that starts with the training data's ``data_root`` is moved.

    Args:
        cfg (Config): The config, changed in place.
        root (str): The folder that holds what ``data_root`` holds.

    Raises:
        MmacsError: If the training data has no ``data_root``.
    """
    old = next((str(found['data_root']).rstrip('/') for found in data_sets(cfg.get('train_dataloader'))), None)
    if old is None:
        raise MmacsError('the config has no train_dataloader with a data_root to replace')

    def move(part: Any) -> Any:
        if isinstance(part, str) and f'{part}/'.startswith(f'{old}/'):
            return os.path.join(root, part[len(old) :].lstrip('/'))
        if isinstance(part, dict):
            for key, value in part.items():
                part[key] = move(value)
        elif isinstance(part, list):
            part[:] = [move(value) for value in part]
        return part

    for name in (*_LOADERS, *_EVALUATORS):
        move(cfg.get(name))


def check_data(cfg: Config, loaders: List[str]) -> None:
    """Check what can be known of data before it is read: that files are there, and that classes agree.

    Args:
        cfg (Config): The whole config.
        loaders (List[str]): Names of the data loaders that will be used.

    Raises:
        MmacsError: If files are missing, or classes of two data sets differ.
    """
    missing: List[str] = []
    for data_set in (found for name in loaders for found in data_sets(cfg.get(name))):
        kind = type_name(data_set.get('type'))
        if kind in _SELF_PROVIDING or data_set.get('backend_args'):
            continue
        root, prefixes = Path(data_set['data_root']), data_set.get('data_prefix')
        given = [*(prefixes.values() if isinstance(prefixes, dict) else [prefixes]), data_set.get('ann_file')]
        # what is no path is refused where the data set is built
        paths = [root, *(root / one for one in given if one and isinstance(one, (str, os.PathLike)))]
        missing += [str(path) for path in paths if not path.exists()]
    if missing:
        raise MmacsError(
            f'data is missing: {", ".join(dict.fromkeys(missing))}; put or link it there, or say --data-root FOLDER '
            f'if it lies elsewhere; the demo in a clone of mmacs, `python3.11 tools/bootstrap.py demo`, draws its own'
        )
    for name in loaders:
        check_classes(cfg.get(name), name, cfg.get('default_scope'))
