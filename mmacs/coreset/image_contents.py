"""What training images hold, byte for byte: hashes of their files, kept for as long as the files stay as they are."""

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
from mmengine.dist import all_gather_object, get_dist_info
from mmengine.fileio import FileClient, LocalBackend, get_file_backend
from mmengine.logging import print_log
from torch.utils.data import DataLoader

from mmacs.adapters.transforms import image_reader
from mmacs.coreset.annotations import HASH_BYTES, Arrays
from mmacs.datasets.distinct_images import DistinctImages
from mmacs.teacher.side_effects import without_side_effects
from mmacs.utils.details import log_detail
from mmacs.utils.distributed import on_main, together
from mmacs.utils.errors import MmacsError
from mmacs.utils.files import write_whole
from mmacs.utils.progress import phase

_FORMAT = 1  # of the files
_SAMPLE = 32  # images whose way through the pipeline is looked at
_CHUNK = 256  # files that a thread reads before it takes others
_SETTLED = 3.0  # seconds without a change after which a later one is seen in a file's times

_State = Tuple[
    int, int, int, int
]  # of a file: size, times of its last changes in ns, inode; zeros: not to be relied on
_UNKNOWN: _State = (0, 0, 0, 0)


class Contents(NamedTuple):
    """Hashes, 32 hexadecimal digits each.

    Attributes:
        stored (str): Of all images as they are stored, byte for byte: files, or arrays of the data set.
        seen (str): Of what the pipeline makes of some images, spread over the data; of all of them where they are
            stored in a way that nobody knows. It may differ between machines and versions of libraries.
    """

    stored: str
    seen: str


def image_contents(
    images: DistinctImages, arrays: Arrays, folder: Optional[os.PathLike] = None, num_workers: int = 0
) -> Contents:
    """Hash the contents of all images. Call it in all processes, which share the work.

    Each file is read once, and again when its size, inode or times change; times of changes (``ctime``) are the
    system's own, so that no program sets them back. Images that are no local files are read in each call.

    Args:
        images (DistinctImages): M images, with the pipeline that they are scored by.
        arrays (Mapping[str, np.ndarray]): What :func:`mmacs.coreset.annotations.read_annotations` gives of them.
        folder (os.PathLike, optional): Where hashes of files are kept.
        num_workers (int): Workers that load images, where these are known by what the pipeline makes of them alone.

    Returns:
        Contents: The same in all processes.

    Raises:
        MmacsError: If an image can't be read, or the folder can't be written to.
    """
    origin, reader = image_reader(images.pipeline.transforms)
    stored = hashlib.sha256(np.ascontiguousarray(arrays['others']))
    shown = np.unique(np.linspace(0, len(images) - 1, _SAMPLE).astype(np.int64))
    if origin == 'file':
        stored.update(file_hashes(arrays, reader, folder))
    elif origin == 'unknown' or not arrays['arrays'].all():
        made_by = '' if reader is None else f', by {type(reader).__name__}'
        print_log(
            f'Images are made in a way of their own{made_by}: all {len(images)} are loaded in each start, to know '
            'whether they are those of before.',
            'current',
        )
        shown = np.arange(len(images))
    seen = hashlib.sha256(_loaded(images, shown, num_workers if len(shown) > _SAMPLE else 0))
    return Contents(stored.hexdigest()[:32], seen.hexdigest()[:32])


# -------------------------------------------------------------------- files
class _Known(NamedTuple):
    """What is known of M files."""

    states: np.ndarray  # int64, shape (M, 4)
    hashes: np.ndarray  # uint8, shape (M, 16)


def file_hashes(arrays: Arrays, reader: Any, folder: Optional[os.PathLike]) -> np.ndarray:
    """Returns the hashes of the images' files, uint8, shape (M, 16)."""
    paths: List[bytes] = arrays['paths'].tolist()
    kept = None if folder is None else Path(folder) / f'{_name(paths)}.contents.npz'
    before = on_main(lambda: None if kept is None else _load(kept, len(paths)))
    rank, world_size = get_dist_info()
    mine = np.arange(rank, len(paths), world_size)
    with together():
        part = _hash([paths[number] for number in mine], _backends(reader), before and _part(before, mine))
    parts = all_gather_object(tuple(part))
    now = _Known(np.zeros((len(paths), 4), np.int64), np.zeros((len(paths), HASH_BYTES), np.uint8))
    for number, (states, hashes) in enumerate(parts):
        now.states[number::world_size], now.hashes[number::world_size] = states, hashes
    if kept is not None and now.states.any() and (before is None or not np.array_equal(before.states, now.states)):
        on_main(lambda: _save(kept, now))
    return now.hashes


def _part(known: _Known, numbers: np.ndarray) -> _Known:
    return _Known(known.states[numbers], known.hashes[numbers])


def _hash(paths: List[bytes], backend_of: Callable[[str], Any], before: Optional[_Known]) -> _Known:
    """Hash what has changed; threads read, and hash without holding each other up."""
    states = np.zeros((len(paths), 4), np.int64)
    hashes = np.zeros((len(paths), HASH_BYTES), np.uint8)
    stale = np.arange(len(paths))
    if before is not None:
        with phase('checking image files', len(paths), 'files') as under_way:
            states[:] = [_state(os.fsdecode(path), backend_of) for path in under_way.each(paths)]
        same = (states == before.states).all(1) & states.any(1)
        hashes[same], states[~same] = before.hashes[same], 0
        stale = np.flatnonzero(~same)
    if len(stale):
        log_detail(f'Reading {len(stale)} of {len(paths)} image files, to know them by their contents.')

    def work(numbers: np.ndarray) -> None:
        for number in numbers.tolist():
            states[number], found = _hash_file(os.fsdecode(paths[number]), backend_of)
            hashes[number] = np.frombuffer(found, np.uint8)

    reading = phase('reading image files', len(stale), 'files')
    with reading as under_way, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        chunks = [stale[start : start + _CHUNK] for start in range(0, len(stale), _CHUNK)]
        for chunk, _ in zip(chunks, pool.map(work, chunks)):  # raises what a thread raised
            under_way.advance(len(chunk))
    return _Known(states, hashes)


def _hash_file(path: str, backend_of: Callable[[str], Any]) -> Tuple[_State, bytes]:
    """Returns a file's state, or :data:`_UNKNOWN`, and its hash."""
    try:
        backend = backend_of(path)
        if not isinstance(backend, LocalBackend):
            content = backend.get(path)
            if content is None:  # what LMDB says of a key that it lacks
                raise MmacsError(f'cannot read image {path}: it is not there')
            return _UNKNOWN, hashlib.sha256(content).digest()[:HASH_BYTES]
        with open(path, 'rb', buffering=0) as file:
            state, now = _state_of(os.fstat(file.fileno())), time.time()
            found = hashlib.sha256(file.read()).digest()[:HASH_BYTES]
            changed = state != _state_of(os.fstat(file.fileno()))
    except OSError as error:
        raise MmacsError(f'cannot read image {path}: {error.strerror or error}') from error
    # a change in the moment of the last one would leave the same times
    return (_UNKNOWN if changed or max(state[1:3]) / 1e9 > now - _SETTLED else state), found


def _state(path: str, backend_of: Callable[[str], Any]) -> _State:
    with suppress(OSError):
        if isinstance(backend_of(path), LocalBackend):
            return _state_of(os.stat(path))
    return _UNKNOWN


def _state_of(found: os.stat_result) -> _State:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _backends(reader: Any) -> Callable[[str], Any]:
    """Returns what gives the backend that a transform reads a path through; one per prefix, such as ``s3``."""
    found: Dict[str, Any] = {}

    def backend_of(path: str) -> Any:
        prefix = path.partition('://')[0] if '://' in path else ''
        if prefix not in found:
            if reader.file_client_args is not None:
                found[prefix] = FileClient.infer_client(reader.file_client_args, path).client
            else:
                found[prefix] = get_file_backend(path, backend_args=reader.backend_args)
        return found[prefix]

    return backend_of


# -------------------------------------------------------------------- other images
def _loaded(images: DistinctImages, positions: np.ndarray, num_workers: int) -> bytes:
    """Returns the hashes of what the pipeline makes of images, one after the other; the same in all processes."""

    def load() -> bytes:
        with without_side_effects():
            loader = DataLoader(
                images, None, sampler=positions.tolist(), num_workers=num_workers, collate_fn=hash_inputs
            )
            with phase('reading images', len(positions)) as under_way:
                return b''.join(under_way.each(loader))

    return on_main(load)


def hash_inputs(data: Dict[str, Any]) -> bytes:
    """Returns the SHA-256 of an image as a pipeline packs it, with its dtype and shape."""
    inputs = np.ascontiguousarray(data['inputs'])
    return hashlib.sha256(repr((inputs.dtype.str, inputs.shape)).encode() + inputs.tobytes()).digest()


# -------------------------------------------------------------------- on disk
def _name(paths: List[bytes]) -> str:
    return hashlib.sha256(b'\0'.join([str(_FORMAT).encode(), *paths])).hexdigest()[:32]


def _load(path: Path, num_images: int) -> Optional[_Known]:
    """Returns what a file says, None if there is none or it is damaged."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:  # it verifies checksums
            known = _Known(file['states'], file['hashes'])
        wanted = (np.int64, (num_images, 4)), (np.uint8, (num_images, HASH_BYTES))
        if tuple((array.dtype, array.shape) for array in known) != wanted:
            raise ValueError('it holds other arrays')
    except Exception as error:  # whatever a damaged file leads to
        print_log(f'{path} is damaged ({error}).', 'current')
        return None
    return known


def _save(path: Path, known: _Known) -> None:
    content = BytesIO()
    np.savez(content, **known._asdict())
    write_whole(path, content.getbuffer(), elsewhere='set cache_dir')
