"""Code that has no business with files, connections and processes, kept from them."""

import errno
import os
import sys
from contextlib import contextmanager
from functools import cache
from threading import local
from typing import Any, Iterator, Tuple

_KINDS = ('open', 'os.', 'shutil.', 'tempfile.', 'socket.', 'subprocess.', 'urllib.', 'http.', 'ftplib.', 'ctypes.')
_LOOKS = ('os.listdir', 'os.scandir', 'os.walk', 'os.putenv', 'os.unsetenv')  # what imports and settings do
_MODULES = ('.py', '.pyc', '.so', '.pyd')
_here = local()


@contextmanager
def closed() -> Iterator[None]:
    """In the body, this thread opens no file but those of Python modules, no connection, and starts no process.

    For library code that is told by a stranger what to build. It is no cage for code of the stranger's own.

    Raises:
        PermissionError: Where the body tries; imports go on without writing their bytecode.
    """
    _install()
    before = getattr(_here, 'closed', False)
    _here.closed = True
    try:
        yield
    finally:
        _here.closed = before


@cache  # it stays for good
def _install() -> None:
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: Tuple[Any, ...]) -> None:
    """Called by Python for whatever reaches outside of it, see PEP 578."""
    if not getattr(_here, 'closed', False) or not event.startswith(_KINDS) or event in _LOOKS:
        return
    what = str(arguments[0]) if arguments else ''
    if event == 'open' and what.endswith(_MODULES) and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
        return
    raise PermissionError(errno.EPERM, f'it tried what it may not, {event}', what[:200])
