"""Reads JSON that anybody may have written."""

import json
import os
from pathlib import Path
from typing import Any, Dict, List, Tuple

from mmacs.utils.errors import MmacsError, printable

_MAX_DEPTH = 20
_MAX_BYTES = 10_000_000


def read_object(path: os.PathLike, what: str) -> Dict[str, Any]:
    """Read a JSON object: nested no deeper than anybody writes, no key twice, finite numbers of at most 64 bits.

    Args:
        path (os.PathLike): The file, UTF-8.
        what (str): What it holds, such as ``'recipe'``.

    Raises:
        MmacsError: If it cannot be read, or is none.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f'it has more than {_MAX_BYTES} bytes')
        found = parse(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise MmacsError(f'cannot read the {what} {path}: {error.strerror or error}') from error
    except ValueError as error:
        raise MmacsError(f'cannot read the {what} {path}: {printable(error, 200)}') from error
    if not isinstance(found, dict):
        example = ', such as {"preset": "w4a4"}' if what == 'recipe' else ''
        raise MmacsError(f'the {what} {path} is not a JSON object{example}')
    return found


def parse(text: str) -> Any:
    """Returns what a text in JSON says, see :func:`read_object`; it need not be an object.

    Raises:
        ValueError: If it is none, or holds what nobody writes.
    """
    try:
        found = json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
        _check(found)
    except RecursionError as error:
        raise ValueError(f'it is nested more than {_MAX_DEPTH} deep') from error
    return found


def _object(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f'it has the key {next(key for key in keys if keys.count(key) > 1)!r} twice')
    return found


def _no_number(text: str) -> None:
    raise ValueError(f'it holds {text}, which is no number')


def _check(found: Any) -> None:
    level, depth = [found], 0
    while level:
        depth += 1
        if depth > _MAX_DEPTH:
            raise RecursionError
        for value in level:
            if isinstance(value, (int, float)) and not -(2**63) <= value < 2**63:
                raise ValueError(f'it holds {value!r:.40}, which is too large')
        level = [part for value in level for part in _parts(value)]


def _parts(value: Any) -> List[Any]:
    if isinstance(value, dict):
        return [*value.values()]
    return value if isinstance(value, list) else []
