"""What ends a run from outside: a full disk, full shared memory, what workers cannot hand over.

MMEngine and torch write without asking us, and torch says in texts alone what became of a worker.
"""

import io
import logging
import os
import shutil
import sys
import traceback
from contextlib import contextmanager
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, Iterator, Optional

from torch.utils.data import get_worker_info

from mmacs.utils.errors import MmacsError, causes
from mmacs.utils.files import DISK_ERRORS, cannot_write

_SHARED = Path('/dev/shm')
# Exit statuses of a worker: without shared memory, and with something that can't be pickled
_NO_MEMORY, _NO_PICKLE = 77, 78
_tell_feeder_error = Queue._on_queue_feeder_error
_ELSEWHERE = 'choose another --work-dir'


@contextmanager
def surroundings(work_dir: os.PathLike) -> Iterator[None]:
    """Say in one sentence where a run inside could not write, be it a file or what workers hand over.

    Args:
        work_dir (os.PathLike): Its work dir.

    Raises:
        MmacsError: If the disk or shared memory is full, the work dir can't be written to, or a worker can't hand over
            a batch.
    """
    handle_error = logging.Handler.handleError

    def stop(handler: logging.Handler, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise cannot_write(getattr(handler, 'baseFilename', work_dir), error, elsewhere=_ELSEWHERE) from error
        handle_error(handler, record)

    logging.Handler.handleError = stop  # which prints a traceback, and the log just ends
    Queue._on_queue_feeder_error = staticmethod(_stop_worker)  # which does so too, and the run waits for ever
    try:
        yield
    except (OSError, RuntimeError) as error:
        sentence = _full_memory(error) or _full_disk(error, Path(work_dir)) or _not_handed_over(error)
        if sentence is None:
            raise
        raise sentence from error
    finally:
        logging.Handler.handleError = handle_error
        Queue._on_queue_feeder_error = staticmethod(_tell_feeder_error)


def _stop_worker(error: Exception, handed_over: Any) -> None:
    """End a worker that cannot hand over what it loaded, so that the run learns of it."""
    if 'shared memory' in str(error) or 'torch_' in str(error):
        os._exit(_NO_MEMORY)
    _tell_feeder_error(error, handed_over)
    if get_worker_info() is not None:
        os._exit(_NO_PICKLE)


def _not_handed_over(error: Exception) -> Optional[MmacsError]:
    if f'exit code {_NO_PICKLE}' not in ' '.join(map(str, causes(error))):
        return None
    return MmacsError(
        'a worker of a data loader cannot hand over what the pipeline gives, see the lines above: let it give tensors, '
        'arrays and plain values, or set num_workers=0 and persistent_workers=False'
    )


def _full_disk(error: Exception, work_dir: Path) -> Optional[MmacsError]:
    if not isinstance(error, OSError):
        return None
    name = error.filename if isinstance(error.filename, (str, os.PathLike)) else _open_file(error)
    inside = name is not None and Path(os.path.abspath(name)).is_relative_to(os.path.abspath(work_dir))
    denied = inside and isinstance(error, (PermissionError, FileExistsError, NotADirectoryError))
    if error.errno not in DISK_ERRORS and not denied:
        return None
    return cannot_write(name or work_dir, error, elsewhere=_ELSEWHERE)


def _open_file(error: OSError) -> Optional[str]:
    """Returns the file that was open nearest to where an error arose, which the error of a write doesn't name."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        for value in frame.f_locals.values():
            if isinstance(value, io.IOBase) and isinstance(getattr(value, 'name', None), str):
                return value.name
    return None


def _full_memory(error: Exception) -> Optional[MmacsError]:
    """What to say where workers have no shared memory left, None for another error."""
    told = ' '.join(map(str, causes(error)))
    signs = ('Bus error', 'shared memory', f'exit code {_NO_MEMORY}')
    of_worker = 'DataLoader worker' in told and any(sign in told for sign in signs)
    of_torch = 'No space left on device' in told and ('torch_' in told or 'shared memory' in told)
    free = shutil.disk_usage(_SHARED).free if _SHARED.is_dir() else None
    of_semaphore = isinstance(error, OSError) and error.errno in DISK_ERRORS and error.filename is None and free == 0
    if not of_worker and not of_torch and not of_semaphore:
        return None
    left = '' if free is None else f' ({free / 1e6:.0f} MB of {_SHARED} are free)'
    return MmacsError(
        f'workers of a data loader ran out of shared memory{left}: set num_workers=0 and persistent_workers=False in '
        'the data loaders, lower batch_size, or give the container more (docker run --shm-size=8g)'
    )
