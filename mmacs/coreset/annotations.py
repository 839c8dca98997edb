"""The one pass over the annotations of training images: into arrays, which are kept on disk."""

import hashlib
import json
import os
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import numpy as np
from mmengine.logging import print_log

from mmacs.datasets.distinct_images import DistinctImages, is_plain
from mmacs.utils.details import log_detail
from mmacs.utils.errors import MmacsError
from mmacs.utils.files import write_whole
from mmacs.utils.progress import phase

NO_CLASS = -1  # of an object whose annotation names none
NO_OBJECTS = -1  # count of an image that has one label for all of it, or several, instead of objects

_FORMAT = 2  # of the files; with another one all are written anew
_CHUNK = 4096  # images of which Python objects are kept at once
_NO_FILE = -1  # size of a file that is not there
HASH_BYTES = 16  # kept of the SHA-256 of an image
_IN_FACTS = ('img_id', 'height', 'width', 'gt_label', 'instances', 'sample_idx', 'noise')

_NAMES = {'fingerprint', 'by_shape', 'counts', 'noisy', 'paths', 'places', 'ids', 'sizes', 'arrays', 'others'}
_NAMES |= {'classes', 'class_ends'}

Arrays = Dict[str, np.ndarray]

encode = json.JSONEncoder(default=lambda value: np.asarray(value).tolist()).encode


def read_annotations(images: DistinctImages, folder: Optional[os.PathLike] = None) -> Arrays:
    """Read the annotations of all images, or take what an earlier call read of the same ones.

    Args:
        images (DistinctImages): M images.
        folder (os.PathLike, optional): Where the arrays are kept. The file's name is a hash of all annotations, as
            MMEngine serializes them, and of the order of the images; it also holds the sizes of the images' files, and
            is taken only where these are as they were. A data set that changes its annotations in a ``get_data_info``
            of its own, or doesn't serialize them, is read in each call.

    Returns:
        Dict[str, np.ndarray]: ``fingerprint``, and all of shape (M,): ``by_shape`` (int64), ``counts`` of objects
        (int64, :data:`NO_OBJECTS` for labels of whole images), ``noisy`` (bool), ``paths`` (bytes, empty for none),
        ``places`` (int64, index in the innermost data set), ``ids`` (JSON, empty for none), ``sizes`` (int64, of
        files), ``arrays`` (bool, whether the info has the image itself), ``others`` (uint8, shape (M, 16), hash of what
        the info holds besides, zeros for nothing), and ``class_ends`` (int64), where each image's classes end in
        ``classes`` (int32).

    Raises:
        MmacsError: If there are no images, a class is negative, a file is empty, or the folder can't be written to.
    """
    key = None if folder is None else _key(images)
    path = None if key is None else Path(folder) / f'{key}.npz'
    arrays = None if path is None else _load(path)
    if arrays is None:
        log_detail(f'Reading the annotations of {len(images)} training images.')
        arrays = _read(images)
        if path is not None:
            _save(path, arrays)
    return arrays


# -------------------------------------------------------------------- the pass
class _Row(NamedTuple):
    """What is kept of an image's annotations."""

    facts: str
    path: bytes
    size: int
    place: int
    id: bytes
    height: float
    width: float
    classes: List[int]
    count: int
    noisy: bool
    array: bool
    others: bytes


def _read(images: DistinctImages) -> Arrays:
    digest = hashlib.sha256()
    rows, chunks = map(_row, images.infos()), []
    with phase('reading annotations', len(images)) as under_way:
        while chunk := list(islice(rows, _CHUNK)):
            digest.update(''.join(row.facts for row in chunk).encode())
            chunks.append(_columns(chunk))
            under_way.advance(len(chunk))
    if not chunks:
        raise MmacsError('the training data set has no images')
    arrays = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    height, width = arrays.pop('heights'), arrays.pop('widths')
    arrays['by_shape'] = np.lexsort((height, width / height))  # stable: positions ascend within a shape
    arrays['class_ends'] = np.cumsum(arrays.pop('class_counts'))
    arrays['fingerprint'] = np.asarray(digest.hexdigest()[:16])
    return arrays


def _row(info: Dict[str, Any]) -> _Row:
    path = os.fsencode(info.get('img_path') or '')
    size = _file_size(path)
    if size == 0:
        raise MmacsError(f'cannot read image {os.fsdecode(path)}: the file is empty')
    return _Row(
        _facts(info, size),
        path,
        size,
        info.get('sample_idx', -1),
        encode(info['img_id']).encode() if 'img_id' in info else b'',
        info.get('height', 1),
        info.get('width', 1),
        _classes(info),
        _count(info),
        bool(info.get('noise')),
        isinstance(info.get('img'), np.ndarray),
        _others(info),
    )


def _columns(rows: Sequence[_Row]) -> Arrays:
    return {
        'paths': np.asarray([row.path for row in rows]),
        'sizes': np.asarray([row.size for row in rows], dtype=np.int64),
        'places': np.asarray([row.place for row in rows], dtype=np.int64),
        'ids': np.asarray([row.id for row in rows]),
        'heights': np.asarray([row.height for row in rows], dtype=np.float64),
        'widths': np.asarray([row.width for row in rows], dtype=np.float64),
        'classes': np.asarray([one for row in rows for one in row.classes], dtype=np.int32),
        'class_counts': np.asarray([len(row.classes) for row in rows], dtype=np.int64),
        'counts': np.asarray([row.count for row in rows], dtype=np.int64),
        'noisy': np.asarray([row.noisy for row in rows]),
        'arrays': np.asarray([row.array for row in rows]),
        'others': np.frombuffer(b''.join(row.others for row in rows), np.uint8).reshape(len(rows), -1),
    }


def _facts(info: Dict[str, Any], size: int) -> str:
    """All that tells an image from others, as text. Checkpoints hold a hash of it: it must stay as it is."""
    facts = [info.get('img_id'), info.get('height'), info.get('width'), info.get('gt_label')]
    for one in info.get('instances', ()):
        facts.append([one.get('bbox'), one.get('bbox_label'), one.get('ignore_flag')])
    path = info.get('img_path')
    if path is not None:
        facts += [Path(path).name, None if size == _NO_FILE else size]
    return encode(facts)


def _others(info: Dict[str, Any]) -> bytes:
    """Hash of what :func:`_facts` leaves out, such as the image itself or a text, but for where things lie."""
    left = {key: value for key, value in info.items() if key not in _IN_FACTS and not key.endswith('_path')}
    if not left:
        return bytes(HASH_BYTES)
    digest = hashlib.sha256()
    for key in sorted(left):
        value = left[key]
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            digest.update(encode([key, value.dtype.str, value.shape]).encode())
            digest.update(np.ascontiguousarray(value))
        else:
            digest.update(json.dumps([key, value], sort_keys=True, default=repr).encode())
    return digest.digest()[:HASH_BYTES]


def _classes(info: Dict[str, Any]) -> List[int]:
    """Classes that an image holds, ascending; those of crowds and ignored boxes don't count."""
    if 'gt_label' in info:
        found = np.ravel(info['gt_label']).tolist()
    else:
        found = [one.get('bbox_label', NO_CLASS) for one in info.get('instances', ()) if not one.get('ignore_flag')]
    return sorted(set(map(int, found)))


def _count(info: Dict[str, Any]) -> int:
    if 'instances' not in info:
        return NO_OBJECTS
    return sum(not one.get('ignore_flag') for one in info['instances'])


def _file_size(path: bytes) -> int:
    """Returns the bytes of a local file."""
    try:
        return os.stat(path).st_size
    except OSError:
        return _NO_FILE


# -------------------------------------------------------------------- on disk
def _key(images: DistinctImages) -> Optional[str]:
    """Hash of all that the arrays follow from but the files' sizes; None where that isn't known without a pass."""
    if not all(is_plain(base) and base.serialize_data for base in images.bases):
        return None
    digest = hashlib.sha256(json.dumps([_FORMAT, *map(len, images.bases)]).encode())
    for base in images.bases:
        digest.update(np.ascontiguousarray(base.data_address))
        digest.update(np.ascontiguousarray(base.data_bytes))
    digest.update(images.numbers)
    return digest.hexdigest()[:32]


def _load(path: Path) -> Optional[Arrays]:
    """Returns the arrays of a file, None if there is none, if it is damaged, or if the images' files have changed."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:  # it verifies checksums
            arrays = dict(file)
        if lacking := _NAMES - arrays.keys():
            raise ValueError(f'it has no {", ".join(sorted(lacking))}')
        same = [*map(_file_size, arrays['paths'].tolist())] == arrays['sizes'].tolist()
    except Exception as error:  # whatever a damaged file leads to
        print_log(f'{path} is damaged ({error}).', 'current')
        return None
    return arrays if same else None


def _save(path: Path, arrays: Arrays) -> None:
    content = BytesIO()
    np.savez(content, **arrays)
    write_whole(path, content.getbuffer(), elsewhere='set cache_dir')
