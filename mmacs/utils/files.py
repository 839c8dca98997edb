"""Writing files so that nobody ever sees half of one, and one sentence where one cannot be written.

All that mmacs writes goes through here.
"""

import errno
import os
import re
import shutil
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator, Optional
from uuid import uuid4

from mmacs.utils.errors import MmacsError, nearest

DAY = 24 * 60 * 60  # seconds after which what nobody goes on writing is taken for a killed run's
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # that only writing leads to

_FULL = (errno.ENOSPC, errno.EDQUOT)
# temporary files of atomic_path, and of mmacs 0.1, which named them by the process
_LEFTOVER = re.compile(r'\..+\.([0-9a-f]{32}\.partial(\.\w+)?|\d{1,7}(\.(pth|npz|json|md|png|py))?)')


@contextmanager
def atomic_path(path: os.PathLike, elsewhere: str = 'choose another folder') -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to; it is renamed to ``path`` if the body succeeds.

    Args:
        path (os.PathLike): The file to be written. Its folder is made if there is none.
        elsewhere (str): What else a user can do where it can't be written.

    Yields:
        Path: Where to write, with the same suffix.

    Raises:
        MmacsError: If it can't be written; the file that was there before is left as it was.
    """
    with writing(path, elsewhere=elsewhere), _temporary(Path(path)) as temporary:
        yield temporary


def write_whole(path: os.PathLike, content: bytes, elsewhere: str = 'choose another folder') -> None:
    """Write a file, or leave the one that is there as it is.

    Args:
        path (os.PathLike): The file. Its folder is made if there is none.
        content (bytes): All of it, or a memoryview.
        elsewhere (str): What else a user can do where it can't be written.

    Raises:
        MmacsError: If it can't be written.
    """
    with writing(path, len(content), elsewhere), _temporary(Path(path)) as temporary:
        temporary.write_bytes(content)


def nearest_file(path: os.PathLike) -> Optional[Path]:
    """Returns the file of the same kind that a misspelt path is most like, part by part; None if none is."""
    path = Path(path)
    found = Path(path.anchor)
    rest = path.parts[len(found.parts) :]
    for number, part in enumerate(rest, start=1):
        if not (found / part).exists():
            with suppress(OSError):
                inside = [one for one in found.iterdir() if number == len(rest) or one.is_dir()]
                names = [one.name for one in inside if number < len(rest) or one.suffix == path.suffix]
                part = nearest(part, names, cutoff=0.75) or part
        found = found / part
    return found if found.is_file() else None


def misspelt(path: os.PathLike) -> str:
    """Returns what to say after the path of a file that is missing: the nearest file, or nothing."""
    near = nearest_file(path)
    return '' if near is None else f", did you mean '{near}'?"


def require_new(path: os.PathLike, force: bool) -> None:
    """Require that a file does not exist, unless it may be replaced.

    Raises:
        MmacsError: If it does, or is a folder.
    """
    with writing(path, elsewhere='give another name'):
        is_folder, is_there = Path(path).is_dir(), Path(path).exists()
    if is_folder:
        raise MmacsError(f'{path} is a folder: name a file')
    if is_there and not force:
        raise MmacsError(f'{path} exists: give another name, or force (--force) to replace it')


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.stem}.{uuid4().hex}.partial{path.suffix}')
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(
    path: os.PathLike, needed: Optional[int] = None, elsewhere: str = 'choose another folder'
) -> Iterator[None]:
    """Turn an OSError of the body, which writes ``path``, into one sentence.

    Args:
        path (os.PathLike): The file or folder.
        needed (int, optional): Bytes that are to be written, where that is known.
        elsewhere (str): What else a user can do.

    Raises:
        MmacsError: If the body raises an OSError.
    """
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error, needed, elsewhere) from error


def remove_leftovers(folder: os.PathLike, older_than: float = 0.0) -> None:
    """Remove temporary files that killed runs left in a folder; what cannot be removed stays.

    Args:
        folder (os.PathLike): Not what lies below it.
        older_than (float): Seconds for which nobody wrote to them. 0 where nobody else writes into the folder.
    """
    for path in Path(folder).glob('.*'):
        with suppress(OSError):
            if _LEFTOVER.fullmatch(path.name) and path.is_file() and time.time() - path.stat().st_mtime >= older_than:
                path.unlink()


def cannot_write(
    path: os.PathLike, error: OSError, needed: Optional[int] = None, elsewhere: str = 'choose another folder'
) -> MmacsError:
    """Returns what to say of an error, see :func:`writing`, and what to do, by its kind."""
    path = Path(path)
    space = [f'{_size(needed)} needed'] if needed is not None and error.errno in (*_FULL, errno.EFBIG) else []
    if error.errno in _FULL:
        space.append(f'{_size(_free(path))} free')
        remedy = f'free some space or {elsewhere}'
    elif error.errno == errno.EFBIG:
        remedy = f'raise the limit on the size of files (ulimit -f) or {elsewhere}'
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        remedy = f'make it writable or {elsewhere}'
    elif error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
        remedy = f'something else is in its place: remove that or {elsewhere}'
    else:
        remedy = elsewhere
    return MmacsError(f'cannot write {path} ({"; ".join([error.strerror or str(error), *space])}): {remedy}')


def _free(path: Path) -> int:
    """Bytes that are free where a file is to be; 0 where nobody says."""
    folder = next((parent for parent in (path, *path.parents) if parent.is_dir()), Path('.'))
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def _size(count: int) -> str:
    """Bytes in words: ``'12.3 MB'``."""
    for unit in ('bytes', 'kB', 'MB'):
        if count < 1000:
            return f'{count} bytes' if unit == 'bytes' else f'{count:.1f} {unit}'
        count /= 1000
    return f'{count:.1f} GB'
