"""The raw rows of a comparison as a CSV file, one run a line."""

import csv
import io
import json
import math
import os
import time
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

from mmacs.evaluation.comparison import Row
from mmacs.utils.errors import MmacsError, printable, shortened
from mmacs.utils.files import write_whole, writing
from mmacs.utils.json_file import parse
from mmacs.utils.lock import try_lock, unlock

# Total seconds are there for those who read the file with other programs
COLUMNS = tuple(
    column
    for field in fields(Row)
    for column in ([field.name, 'total_seconds'] if field.name == 'selection_seconds' else [field.name])
)
_PATIENCE = 60.0  # seconds for which another process may hold the file


def read_rows(path: os.PathLike) -> List[Row]:
    """Read all rows; none where there is no file.

    Raises:
        MmacsError: If the file holds something else.
    """
    try:
        text = Path(path).read_text(encoding='utf-8')
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise MmacsError(f'cannot read {path}: {error}') from error
    lines = csv.reader(io.StringIO(text, newline=''), strict=True)
    rows = []
    try:
        head = next(lines, None)
        if head is None or tuple(head) != COLUMNS:
            raise ValueError(f'its columns must be {", ".join(COLUMNS)}')
        for line in lines:
            if len(line) != len(COLUMNS):
                raise ValueError(f'line {lines.line_num} has {len(line)} values, not {len(COLUMNS)}')
            given = dict(zip(COLUMNS, line))
            rows.append(
                Row(**{field.name: _read(field.name, given[field.name], lines.line_num) for field in fields(Row)})
            )
    except (ValueError, csv.Error) as error:
        raise MmacsError(
            f'{path} holds no rows of a comparison ({printable(error, 300)}): mend it, or move it away'
        ) from error
    return rows


def add_row(path: os.PathLike, row: Row) -> List[Row]:
    """Add a row to what the file holds by now, in the place of one of the same settings; other processes may do so too.

    Returns:
        List[Row]: All rows.

    Raises:
        MmacsError: If the file cannot be read or written.
    """
    with _alone(Path(path)):
        rows = [other for other in read_rows(path) if other.settings != row.settings] + [row]
        text = io.StringIO(newline='')
        writer = csv.writer(text, lineterminator='\n')
        writer.writerow(COLUMNS)
        writer.writerows([_written(getattr(other, _ATTRIBUTES.get(name, name))) for name in COLUMNS] for other in rows)
        write_whole(path, text.getvalue().encode())
    return rows


_ATTRIBUTES = {'total_seconds': 'seconds'}


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other processes from writing the file, where its file system has locks."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    lock, until = path.with_name(f'.{path.name}.lock'), time.monotonic() + _PATIENCE
    try:
        while not try_lock(lock):
            if time.monotonic() >= until:
                raise MmacsError(f'{path} is held by another process: end it, and run the command again')
            time.sleep(0.02)
    except OSError:  # a file system without locks
        yield
        return
    try:
        yield
    finally:
        unlock(lock)


def _written(value: Any) -> Any:
    if isinstance(value, dict):
        return json.dumps(value)
    return '' if value is None else value


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _metrics(text: str) -> Dict[str, float]:
    found = parse(text)
    if not isinstance(found, dict):
        raise ValueError
    return {name: _number(value) for name, value in found.items()}


def _switch(text: str) -> bool:
    return {'True': True, 'False': False}[text]


_READERS: Dict[str, Callable[[str], Any]] = {
    'fraction': lambda text: _number(text) if text else None,
    'metrics': _metrics,
    'tuned': _switch,
    **dict.fromkeys(('seed', 'epochs', 'images', 'threads'), int),
    **dict.fromkeys(('value', 'training_seconds', 'selection_seconds'), _number),
}


def _read(column: str, text: str, line: int) -> Any:
    try:
        return _READERS.get(column, str)(text)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f'line {line}: {column} is {shortened(text)}') from error
