"""Code that has no business with files, connections and processes, kept from them."""

import sys
from contextlib import contextmanager
from functools import cache
from threading import local
from typing import Any, Iterator, Tuple

from mmacs.utils.errors import MmacsError

_KINDS = ('open', 'os.', 'shutil.', 'tempfile.', 'socket.', 'subprocess.', 'urllib.', 'http.', 'ftplib.', 'ctypes.')
_LOOKS = ('os.listdir', 'os.scandir', 'os.walk', 'os.putenv', 'os.unsetenv')  # what imports and settings do
_MODULES = ('.py', '.pyc', '.so', '.pyd')
_here = local()


@contextmanager
def closed() -> Iterator[None]:
    """In the body, this thread opens no file but those of Python modules, no connection, and starts no process.

    For library code that is told by a stranger what to build. It is no cage for code of the stranger's own.

    Raises:
        MmacsError: Where the body tries.
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
    what = arguments[0] if arguments else ''
    if event == 'open' and str(what).endswith(_MODULES) and arguments[1] in (None, 'r', 'rb'):
        return
    raise MmacsError(f'building a model tried what it may not: {event} {str(what)[:200]!r}')
