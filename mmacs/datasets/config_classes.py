"""Classes as a config gives them, compared before any data set is built."""

import os
from typing import Any, Iterator, Mapping, Optional, Sequence

from mmengine.config import Config
from mmengine.registry import DATASETS

from mmacs.datasets.class_names import require_names, require_same
from mmacs.datasets.text_files import not_utf8, require_no_mark
from mmacs.utils.errors import MmacsError, reason


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
    kind, metainfo = cfg.get('type'), cfg.get('metainfo') or {}
    if not isinstance(metainfo, (Mapping, Config)):
        raise MmacsError(f'metainfo of {kind} must be a dict, such as dict(classes=...), got {metainfo!r}')
    given = cfg.get('classes') or metainfo.get('classes')
    if isinstance(given, str):
        given = _names_in(given, str(kind))
    if given is None and isinstance(kind, str):
        kind = DATASETS.get(kind if '.' in kind or scope is None else f'{scope}.{kind}')
    if given is None:
        given = getattr(kind, 'METAINFO', {}).get('classes')
    if given is not None:
        yield given


def _names_in(file: str, owner: str) -> Sequence[str]:
    """Returns the names in a text file, one a line, which both libraries take in the place of classes.

    Raises:
        MmacsError: If it is no file, or not in UTF-8.
    """
    path = os.path.expanduser(file)
    if not os.path.isfile(path):
        if os.path.splitext(path)[1] == '.txt':
            raise MmacsError(f'classes of {owner} is the file {file}, which is not there')
        require_names(file, owner)
    try:
        require_no_mark(path)
        with open(path, encoding='utf-8') as lines:
            return [line.rstrip('\n\r') for line in lines]
    except (OSError, UnicodeDecodeError) as error:
        why = not_utf8(error) if isinstance(error, UnicodeDecodeError) else reason(error)
        raise MmacsError(f'cannot read the file {file}, which is classes of {owner}: {why}') from error
