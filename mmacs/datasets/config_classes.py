"""Classes as a config gives them, compared before any data set is built."""

import os
from typing import Any, Iterator, Mapping, Optional, Sequence

from mmengine.registry import DATASETS

from mmacs.datasets.class_names import require_names, require_same


def check_classes(cfg: Any, owner: str, scope: Optional[str]) -> None:
    """Compare the classes of the parts of concatenated data sets, and refuse classes that are a string.

    Args:
        cfg (Any): Config of a data loader, or a part of one.
        owner (str): Where it stands, such as ``'train_dataloader'``.
        scope (str, optional): The config's ``default_scope``.

    Raises:
        MmacsError: If classes differ, or are a string that names no file.
    """
    if not isinstance(cfg, Mapping):
        return
    check_classes(cfg.get('dataset'), owner, scope)
    parts = cfg.get('datasets')
    if isinstance(parts, (list, tuple)):
        for part in parts:
            check_classes(part, owner, scope)
        first, *others = [next(_classes(part, scope), None) for part in parts] or [None]
        for number, other in enumerate(others, start=2):
            if first is not None and other is not None:
                require_same(first, f'part 1 of {owner}', other, f'part {number}')
    else:
        list(_classes(cfg, scope))


def _classes(cfg: Any, scope: Optional[str]) -> Iterator[Sequence[str]]:
    """Classes of the data sets in a config, where it or their type names them."""
    if not isinstance(cfg, Mapping):
        return
    inner = cfg.get('datasets') or cfg.get('dataset')
    if inner:
        for part in inner if isinstance(inner, (list, tuple)) else [inner]:
            yield from _classes(part, scope)
        return
    given = cfg.get('classes') or (cfg.get('metainfo') or {}).get('classes')
    kind = cfg.get('type')
    if isinstance(given, str):
        if not os.path.isfile(os.path.expanduser(given)):  # both libraries take a file of names
            require_names(given, str(kind))
        return
    if given is None and isinstance(kind, str):
        kind = DATASETS.get(kind if '.' in kind or scope is None else f'{scope}.{kind}')
    if given is None:
        given = getattr(kind, 'METAINFO', {}).get('classes')
    if given is not None:
        yield given
