"""The teacher's outputs of all images on disk, so that it runs once: one row per image.

A cache is a folder ``<folder>/<key>`` with one ``<name>.npy`` per tensor, row i that of image i, and ``cache.json``
with their sizes and checksums. It gets its name when it is complete, so whoever finds it finds all of it. Rows are
read, not mapped to memory: a file that is cut short under a running process is an error then, and no end of it.
"""

import hashlib
import json
import os
import shutil
import socket
import time
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, ContextManager, Dict, Iterator, List, Optional, Sequence, Tuple, Type
from uuid import uuid4
from weakref import finalize

import numpy as np
from mmengine.dist import all_gather_object, get_rank, is_main_process
from mmengine.logging import print_log
from torch import Tensor, from_numpy

from mmacs.utils.distributed import everywhere, on_main
from mmacs.utils.errors import MmacsError
from mmacs.utils.files import DAY, writing
from mmacs.utils.lock import LOCK, holds, try_lock, unlock
from mmacs.utils.progress import phase

PARTS = '.parts'  # suffix of a folder whose caches are of one key

_FORMAT = 1
_BLOCK = 2**20  # bytes read at once
_ROWS = 4096  # rows put together at once

Layout = Dict[str, Tuple[str, Tuple[int, ...]]]  # dtype and shape of one row, by name


def cache_key(**parts: Any) -> str:
    """Name the cache of the teacher's outputs by all that it depends on.

    Args:
        **parts: Plain values that JSON has: fingerprints of weights and images, the pipeline, the scorer's config.

    Returns:
        str: 16 hexadecimal digits of SHA-256 over the parts as canonical JSON; their order doesn't matter.
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(',', ':')).encode()).hexdigest()[:16]


class _Rows:
    """Rows of one array in a file.

    Args:
        path (Path): The file.
        dtype (np.dtype): Of what is in it.
        shape (Tuple[int, ...]): Of one row.
        offset (int): Bytes before the first row.
    """

    def __init__(self, path: Path, dtype: np.dtype, shape: Tuple[int, ...], offset: int = 0) -> None:
        self._path, self._dtype, self._shape, self._offset = path, np.dtype(dtype), shape, offset
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        finalize(self, os.close, self._file)
        self._bytes = self._dtype.itemsize * int(np.prod(shape))  # of a row

    @classmethod
    def of_array(cls, path: Path, num_rows: int) -> '_Rows':
        """Opens an ``.npy`` file.

        Raises:
            ValueError: If it is none, or its array has another number of rows.
        """
        with open(path, 'rb') as file:
            version = np.lib.format.read_magic(file)
            shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
            offset = file.tell()
        if version != (1, 0) or by_columns or dtype.hasobject or shape[:1] != (num_rows,):
            raise ValueError(f'{path} has no {num_rows} rows')
        return cls(path, dtype, shape[1:], offset)

    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        """Returns copies of rows, in any order, shape (B, ...).

        Raises:
            MmacsError: If the file ends before one of them.
        """
        rows = np.empty((len(numbers), *self._shape), self._dtype)
        view = rows.reshape(-1).view(np.uint8)
        # rows that lie behind one another are read at once
        starts = np.flatnonzero(np.diff(numbers, prepend=-2) != 1).tolist()
        for start, end in zip(starts, [*starts[1:], len(numbers)]):
            at = self._offset + int(numbers[start]) * self._bytes
            self._read(memoryview(view[start * self._bytes : end * self._bytes]), at)
        return rows

    def _read(self, part: memoryview, at: int) -> None:
        """Fill a part of memory from a place of the file."""
        while len(part):  # the system gives at most 2 GB at once
            try:
                found = os.pread(self._file, len(part), at)
            except OSError as error:
                raise MmacsError(f'cannot read {self._path} ({error.strerror}): resume the run') from error
            if not found:
                raise MmacsError(
                    f'{self._path} was cut short while the run read it: resume the run, which then makes it again'
                )
            part[: len(found)] = found
            part, at = part[len(found) :], at + len(found)


class TeacherCache:
    """A complete cache, open for reading.

    Args:
        path (os.PathLike): Its folder, sound.
    """

    def __init__(self, path: os.PathLike) -> None:
        about = json.loads((Path(path) / 'cache.json').read_text())
        files = {name: Path(path) / f'{name}.npy' for name in sorted(about['arrays'])}
        self._arrays = {name: _Rows.of_array(file, about['num_images']) for name, file in files.items()}

    def rows(self, positions: Sequence[int], names: Optional[Sequence[str]] = None) -> Dict[str, Tensor]:
        """Read images' rows.

        Args:
            positions (Sequence[int]): Positions of B images, in any order.
            names (Sequence[str], optional): Of what is read of them, as far as it is there; None reads all.

        Returns:
            Dict[str, Tensor]: Named tensors on the CPU, batch first, as they were written.

        Raises:
            MmacsError: If a file has been cut short meanwhile.
        """
        positions = np.asarray(positions, dtype=np.int64)
        wanted = self._arrays if names is None else self._arrays.keys() & set(names)
        return {name: from_numpy(self._arrays[name][positions]) for name in wanted}


def open_cache(folder: os.PathLike, key: str, num_images: int) -> Optional[TeacherCache]:
    """Open a cache if there is a sound one; the reason why there is none is logged. Call it in all processes.

    Sizes and checksums of its files are verified by the main process, which also removes what killed runs left.

    Args:
        folder (os.PathLike): Where caches lie, on a disk that all processes share.
        key (str): From :func:`cache_key`.
        num_images (int): Rows that it must have.

    Returns:
        TeacherCache or None: None if there is none for this key, or it is of another number of images, or damaged.

    Raises:
        MmacsError: If only some processes can read it.
    """
    path = Path(folder) / key

    def look() -> Optional[str]:
        _remove_abandoned(path.parent)
        return _fault(path, key, num_images)

    fault = on_main(look)
    if fault is None:
        return _open(path)
    print_log(f'The teacher runs, because {fault}.', 'current')
    return None


class CacheWriter:
    """Writes a cache. In a distributed run all processes make one each, write their images, and finish.

    Each process writes to files of its own in a temporary folder, which the main process names, locks and at the end
    turns into the cache. Of several runs that build one cache at once the first to finish gives it its name, and the
    others take that one. Leaving the ``with`` statement without :meth:`finish` removes what was written; what killed
    runs leave behind is removed when the next one looks for a cache, where locks don't work when it is a day old.

    Args:
        folder (os.PathLike): Where caches lie, on a disk that all processes share. It is made if there is none.
        key (str): From :func:`cache_key`.
        num_images (int): Rows of the cache, at least 1.

    Raises:
        MmacsError: If the folder can't be written to, or not all processes see it.
    """

    def __init__(self, folder: os.PathLike, key: str, num_images: int) -> None:
        self._path = Path(folder) / key
        self._key = key
        self._num_images = num_images
        self._temporary = Path(on_main(self._make_temporary))
        self._layout: Optional[Layout] = None
        self._files: Dict[str, BinaryIO] = {}
        self._positions: List[np.ndarray] = []
        try:
            everywhere(_unseen(self._temporary))
        except MmacsError:
            self._discard()
            raise

    def __enter__(self) -> 'CacheWriter':
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        with suppress(MmacsError):
            self._close()
        self._discard()

    def write(self, positions: Sequence[int], rows: Dict[str, Tensor]) -> None:
        """Append images' rows.

        Args:
            positions (Sequence[int]): Positions of B images, each written once by one process.
            rows (Dict[str, Tensor]): Named tensors, batch first; names, dtypes and all axes but the first are the
                same in every call.

        Raises:
            MmacsError: If the rows are not like those before, or can't be written.
        """
        positions = np.array(positions, dtype=np.int64)
        arrays = {name: np.ascontiguousarray(row.detach().cpu().numpy()) for name, row in rows.items()}
        layout = {name: (array.dtype.str, array.shape[1:]) for name, array in arrays.items()}
        if layout != (self._layout or layout) or any(len(array) != len(positions) for array in arrays.values()):
            raise MmacsError(
                f"the scorer's teacher outputs must have rows of one kind, got {layout} after {self._layout}"
            )
        self._layout = layout
        size = sum(array.nbytes for array in arrays.values())
        with _writing(self._path, size // max(1, len(positions)) * self._num_images):
            for name, array in arrays.items():
                if name not in self._files:
                    self._files[name] = open(self._shard(name, get_rank()), 'wb')  # noqa: SIM115, closed in _close
                self._files[name].write(array.data)
                self._files[name].flush()  # a full disk shows now, and the file's time says that this run lives
        self._positions.append(positions)

    def finish(self) -> TeacherCache:
        """Put together what all processes wrote and open it. Call it in all processes.

        Raises:
            MmacsError: If an image was written never or more than once, or the cache can't be written or seen.
        """
        self._close()
        mine = np.concatenate([np.empty(0, dtype=np.int64), *self._positions])
        parts = all_gather_object((mine, self._layout))  # waits for all processes
        on_main(lambda: self._complete([positions for positions, _ in parts], [layout for _, layout in parts]))
        return _open(self._path)

    # ---------------------------------------------------------------- parts
    def _shard(self, name: str, rank: int) -> Path:
        """Returns the file with one process's rows of one tensor, without a header."""
        return self._temporary / f'{name}.{rank}'

    def _close(self) -> None:
        with _writing(self._path):
            for file in self._files.values():
                file.close()

    def _discard(self) -> None:
        if is_main_process():
            shutil.rmtree(self._temporary, ignore_errors=True)  # gone already if it became the cache
            unlock(self._temporary / LOCK)

    def _make_temporary(self) -> str:
        """Make a folder of this run's own."""
        folder = self._path.parent
        with _writing(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            temporary = _beside(self._path)
            temporary.mkdir()
        with suppress(OSError):  # of a file system without locks: others leave a young folder alone
            try_lock(temporary / LOCK)
        return str(temporary)

    def _complete(self, positions: List[np.ndarray], layouts: List[Optional[Layout]]) -> None:
        """Check that all is there, merge the processes' files and give the folder its final name."""
        counts = np.bincount(np.concatenate(positions), minlength=self._num_images)
        wrong = np.flatnonzero(counts != (np.arange(len(counts)) < self._num_images))
        if len(wrong):
            raise MmacsError(
                f'the teacher cache needs each of {self._num_images} images once, image {wrong[0]} was written '
                f'{counts[wrong[0]]} times'
            )
        found = [layout for layout in layouts if layout is not None]
        if any(layout != found[0] for layout in found):
            raise MmacsError(f"the scorer's teacher outputs must have rows of one kind, processes wrote {found}")
        needed = sum(path.stat().st_size for path in self._temporary.iterdir())
        with _writing(self._path, needed), phase("writing the teacher's outputs"):
            arrays = {name: self._merge(name, *found[0][name], positions) for name in found[0]}
            about = {'format': _FORMAT, 'key': self._key, 'num_images': self._num_images, 'arrays': arrays}
            (self._temporary / 'cache.json').write_text(json.dumps(about, indent=2) + '\n')
            self._publish()

    def _merge(self, name: str, dtype: str, shape: Tuple[int, ...], positions: List[np.ndarray]) -> Tuple[int, int]:
        """Write one tensor's rows of all processes in order of position; returns size and checksum of the file.

        It is written from front to back, so that a full disk is an error.
        """
        process, row = np.empty(self._num_images, dtype=np.int64), np.empty(self._num_images, dtype=np.int64)
        shards: Dict[int, _Rows] = {}
        for rank, written in enumerate(positions):
            process[written], row[written] = rank, np.arange(len(written))
            if len(written):
                shards[rank] = _Rows(self._shard(name, rank), np.dtype(dtype), shape)

        def blocks() -> Iterator[bytes]:
            header = BytesIO()
            about = {'descr': dtype, 'fortran_order': False, 'shape': (self._num_images, *shape)}
            np.lib.format.write_array_header_1_0(header, about)
            yield header.getvalue()
            for start in range(0, self._num_images, _ROWS):
                of, at = process[start : start + _ROWS], row[start : start + _ROWS]
                block = np.empty((len(of), *shape), dtype)
                for rank, shard in shards.items():
                    block[of == rank] = shard[at[of == rank]]
                yield block.tobytes()

        checksum = 0
        with open(self._temporary / f'{name}.npy', 'wb') as file:
            for block in blocks():
                file.write(block)
                checksum = zlib.crc32(block, checksum)
            size = file.tell()
        for rank in shards:
            self._shard(name, rank).unlink()
        return size, checksum

    def _publish(self) -> None:
        (self._temporary / LOCK).unlink(missing_ok=True)  # held until the folder has its name
        if self._path.exists() and _fault(self._path, self._key, self._num_images):
            aside = _beside(self._path)
            os.rename(self._path, aside)
            if aside.is_dir():
                shutil.rmtree(aside)
            else:
                aside.unlink()
        try:
            os.rename(self._temporary, self._path)
        except OSError:  # another run was faster, and its cache is as good as ours
            if _fault(self._path, self._key, self._num_images):
                raise
            self._discard()
        unlock(self._temporary / LOCK)
        _tell_of_others(self._path)


def _fault(path: Path, key: str, num_images: int) -> Optional[str]:
    """Why a folder is no sound cache; None if it is one."""
    try:
        if not path.exists():
            only_others = ', only of others' if any(path.parent.glob('*/cache.json')) else ''
            return f'{path.parent} has no cache of these weights, images and settings{only_others}'
        about = json.loads((path / 'cache.json').read_text())
        for name, expected in (('format', _FORMAT), ('key', key), ('num_images', num_images)):
            if about[name] != expected:
                return f'the cache {path} has {name} {about[name]} instead of {expected}'
        for name, (size, checksum) in about['arrays'].items():
            file = path / f'{name}.npy'
            if file.parent != path:
                return f'the cache {path} names {file}, which is none of its own'
            if file.stat().st_size != size:
                return f'{file} has {file.stat().st_size} bytes instead of {size}'
            if _checksum(file) != checksum:
                return f'{file} is damaged'
            _Rows.of_array(file, num_images)
    except Exception as error:  # whatever a damaged file leads to
        return f'the cache {path} cannot be read ({error})'
    return None


def _checksum(path: Path) -> int:
    """CRC-32 of a file."""
    checksum, blocks = 0, -(-path.stat().st_size // _BLOCK)
    with open(path, 'rb') as file, phase("checking the teacher's outputs on disk", blocks, 'MiB') as under_way:
        while block := file.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
            under_way.advance()
    return checksum


def _beside(path: Path) -> Path:
    """Returns a name that nobody else uses, for a folder that is no cache yet or no longer."""
    return path.with_name(f'.{path.name}.{uuid4().hex}')


def _remove_abandoned(folder: Path) -> None:
    """Remove the temporary folders that nobody writes to any more."""
    for leftover in folder.glob(f'.{"[0-9a-f]" * 16}.{"[0-9a-f]" * 32}'):
        if _is_abandoned(leftover):
            shutil.rmtree(leftover, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    """Returns whether nobody writes to a temporary folder any more: its lock is free, or it has none and is old."""
    lock = folder / LOCK
    if holds(lock):
        return False
    try:
        if lock.exists():
            abandoned = try_lock(lock)
            unlock(lock)
            return abandoned
    except OSError:
        pass
    return time.time() - _last_written(folder) > DAY


def _tell_of_others(path: Path) -> None:
    """Log what else lies where a new cache was made: nobody but the user knows whether it is still needed."""
    if path.parent.suffix == PARTS:
        return
    others = [file.parent for file in path.parent.glob('*/cache.json') if file.parent.name != path.name]
    size = sum(file.stat().st_size for other in others for file in other.iterdir() if file.is_file())
    if others:
        print_log(
            f'{path.parent} also holds {len(others)} caches of other weights, images, settings or versions '
            f'({size / 1e6:.0f} MB), which stay for runs that need them: delete those that none does.',
            'current',
        )


def _last_written(folder: Path) -> float:
    """When anything in a folder was last written, in seconds since the epoch; a folder that just went counts as new."""
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    except OSError:
        return time.time()


def _open(path: Path) -> TeacherCache:
    """Open a cache that the main process found or made, in all processes."""
    cache = None
    fault = _unseen(path)
    if fault is None:
        try:
            cache = TeacherCache(path)
        except (OSError, ValueError, KeyError) as error:
            fault = f'the cache {path} has just been changed by somebody else ({error}): start the run again'
    everywhere(fault)
    return cache


def _unseen(path: Path) -> Optional[str]:
    """Returns what to say if this process can't see a folder that the main process made."""
    if path.is_dir():
        return None
    return (
        f'process {get_rank()} on {socket.gethostname()} cannot see {path}, which the main process made: set cache_dir '
        f'to a folder on a disk that all machines share'
    )


def _writing(path: Path, needed: Optional[int] = None) -> ContextManager[None]:
    """See :func:`mmacs.utils.files.writing`."""
    return writing(path, needed, elsewhere='set cache_dir')
