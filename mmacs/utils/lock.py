"""One run per work dir: the lock of the operating system on a file, which ends with the process that holds it."""

import errno
import fcntl
import logging
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Dict, Tuple

from mmengine.logging import print_log

from mmacs.utils.errors import MmacsError
from mmacs.utils.files import writing

LOCK = '.lock'
PATIENCE = 5.0  # seconds that a killed process may take to vanish

_BUSY = (errno.EACCES, errno.EAGAIN)
_held: Dict[Tuple[int, Path], int] = {}  # files that are kept open, by process and path


def holds(path: os.PathLike) -> bool:
    """Returns whether this process holds a lock."""
    return (os.getpid(), Path(path).resolve()) in _held


def try_lock(path: os.PathLike) -> bool:
    """Lock a file, which is made if there is none, until this process ends or calls :func:`unlock`.

    The lock is one of records (POSIX): forked workers don't hold it on, as they would one of ``flock``.

    Returns:
        bool: Whether this process holds it now; False if another does.

    Raises:
        OSError: If the file can't be written, or its file system has no locks.
    """
    if holds(path):
        return True
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        if error.errno in _BUSY:
            return False
        raise
    _held[os.getpid(), Path(path).resolve()] = file
    return True


def unlock(path: os.PathLike) -> None:
    """Let go of a lock, if this process holds it; the file stays."""
    file = _held.pop((os.getpid(), Path(path).resolve()), None)
    if file is not None:
        os.close(file)


def hold_work_dir(work_dir: os.PathLike, patience: float = PATIENCE) -> bool:
    """Keep other runs out of a work dir until this process ends.

    Args:
        work_dir (os.PathLike): It is made if there is none.
        patience (float): Seconds to wait for a run that is about to end.

    Returns:
        bool: Whether the lock is new: False if this process had it, or the file system has no locks.

    Raises:
        MmacsError: If another run holds it, or the folder can't be written to.
    """
    work_dir = Path(work_dir)
    path = work_dir / LOCK
    if holds(path):
        return False
    with writing(work_dir, elsewhere='choose another --work-dir'):
        work_dir.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))  # says what cannot be written
    until = time.monotonic() + patience
    try:
        while not try_lock(path):
            if time.monotonic() >= until:
                raise MmacsError(
                    f'{work_dir} is in use by another run{_holder(path)}: give this one another --work-dir, or wait '
                    'until that one has ended'
                )
            time.sleep(0.1)
    except OSError as error:
        print_log(
            f'{work_dir} cannot be locked ({error.strerror}), as on some network disks: see to it that no other run '
            'uses it.',
            'current',
            logging.WARNING,
        )
        return False
    with writing(path, elsewhere='choose another --work-dir'):
        file = _held[os.getpid(), path.resolve()]
        os.ftruncate(file, 0)
        os.pwrite(file, f'process {os.getpid()} on {socket.gethostname()}\n'.encode(), 0)
    return True


def _holder(path: Path) -> str:
    """Who holds a lock, as the file says."""
    found = ''
    with suppress(OSError):
        found = path.read_bytes()[:100].decode(errors='replace').strip()
    return f' ({found})' if found and found.isprintable() else ''
