"""Writing files so that nobody ever sees half of one."""

import os
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator


@contextmanager
def atomic_path(path: os.PathLike) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to; it is renamed to ``path`` if the body succeeds.

    Args:
        path (os.PathLike): The file to be written. Its folder is made if there is none.

    Yields:
        Path: Where to write, with the same suffix.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.stem}.{os.getpid()}{path.suffix}')
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
