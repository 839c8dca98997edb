"""Reads what ``torch.save`` wrote, and builds nothing but tensors and plain values from it, whoever wrote it."""

import io
import os
import zipfile
from typing import Any, BinaryIO, Dict, List, Optional, Tuple, Union

import numpy as np
import torch

from mmacs.utils.errors import MmacsError, printable, reason
from mmacs.utils.files import misspelt
from mmacs.utils.plain_pickle import NotPlainError, PlainUnpickler, Storage, StorageType

# Before torch 1.6 a checkpoint was a row of pickles, of which the first holds this number.
_MAGIC = 0x1950A86A20F9469CFC6C
_MAGIC_PICKLE = b'\x80\x02\x8a\x0a' + _MAGIC.to_bytes(10, 'little') + b'.'
_SAY_WHAT = 'name a checkpoint that torch.save wrote'


def read_checkpoint(source: Union[str, os.PathLike, BinaryIO], map_location: Any = None) -> Dict[Any, Any]:
    """Read a checkpoint as tensors and plain values, on which see :mod:`mmacs.utils.plain_pickle`.

    It takes the place of ``torch.load``, and reads the format by itself. All bytes of a zip archive that it uses are
    checked by their CRC-32, and no tensor is larger than what the file holds for it.

    Args:
        source (str, os.PathLike or BinaryIO): The file.
        map_location (str or torch.device, optional): Where the tensors are put; anything else is the CPU.

    Returns:
        dict: What the file holds.

    Raises:
        MmacsError: If there is no such file or device, or the file is damaged, no checkpoint, or holds anything else.
    """
    name = getattr(source, 'name', 'it') if hasattr(source, 'read') else os.fspath(source)  # type: ignore[arg-type]
    name = printable(name, 500)
    device = _device(map_location, name)
    if not hasattr(source, 'read') and os.path.isdir(source):  # type: ignore[arg-type]
        raise MmacsError(f'the checkpoint {name} is a folder: name a file in it')
    try:
        if hasattr(source, 'read'):
            found = _read(source, device)  # type: ignore[arg-type]
        else:
            with open(source, 'rb') as file:  # type: ignore[arg-type]
                found = _read(file, device)
        _check_checkpoint(found)
    except FileNotFoundError as error:
        raise MmacsError(f'the checkpoint {name} is missing{misspelt(name)}') from error
    except NotPlainError as error:
        raise MmacsError(
            f'the checkpoint {name} holds something other than weights and plain values ({error}), and is not loaded: '
            f'where you trust it, have torch.load read it, and torch.save its weights alone'
        ) from error
    except _NoCheckpointError as error:
        raise MmacsError(f'{name} is no checkpoint: {error}') from error
    except torch.cuda.OutOfMemoryError:
        raise
    except OSError as error:
        raise MmacsError(f'cannot read the checkpoint {name}: {error.strerror or error}') from error
    except Exception as error:  # damaged bytes make readers raise almost anything
        raise MmacsError(
            f'the checkpoint {name} is damaged, and is not loaded: {printable(error, 200) or type(error).__name__}'
        ) from error
    return found


def _device(map_location: Any, name: str) -> torch.device:
    """Returns where tensors are put, which must be there: that it is not is no fault of the file."""
    try:
        return torch.empty(0, device=map_location if isinstance(map_location, (str, torch.device)) else 'cpu').device
    except (AssertionError, RuntimeError) as error:
        raise MmacsError(f'cannot load the checkpoint {name} to {map_location}: {reason(error)}') from error


class _NoCheckpointError(Exception):
    """A file is something else than a checkpoint; the message says what it seems to be."""


def _read(file: BinaryIO, device: torch.device) -> Any:
    start = file.read(512)
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if not size:
        raise _NoCheckpointError(f'it is empty; {_SAY_WHAT}')
    if start.startswith(b'PK\x03\x04'):
        return _read_zip(file, size, device)
    if start.startswith(_MAGIC_PICKLE):
        return _read_pickles(file, size, device)
    if start[257:262] == b'ustar':
        raise _NoCheckpointError(
            'it is a tar archive, as torch wrote before 0.1.10; load it with that and save it anew'
        )
    if start[8:9] == b'{' and int.from_bytes(start[:8], 'little') < size:
        raise _NoCheckpointError('it seems to be in the format of safetensors; save it with torch.save')
    raise _NoCheckpointError(f'it begins with {printable(start[:24])}; {_SAY_WHAT}')


def _read_zip(file: BinaryIO, size: int, device: torch.device) -> Any:
    """Read the archive that torch >= 1.6 writes: a pickle, and a record for each storage."""
    with zipfile.ZipFile(file) as archive:
        records = {record.filename: record for record in archive.infolist()}
        pickles = [name for name in records if name.endswith('/data.pkl') and name.count('/') == 1]
        if len(pickles) != 1:
            raise _NoCheckpointError(f'it is a zip archive without what torch.save puts into one; {_SAY_WHAT}')
        folder = pickles[0].removesuffix('data.pkl')
        if f'{folder}constants.pkl' in records:
            raise _NoCheckpointError('it is a TorchScript program; name a checkpoint of weights')
        if any(record.compress_type != zipfile.ZIP_STORED for record in records.values()):
            raise ValueError('its records are compressed, which torch.save does not do')
        if len(records) != len(archive.infolist()) or sum(record.file_size for record in records.values()) > size:
            raise ValueError('its records overlap')
        if f'{folder}byteorder' in records and archive.read(f'{folder}byteorder') != b'little':
            raise ValueError('it was written on a big-endian machine')
        storages: Dict[str, Storage] = {}

        def find_storage(about: tuple) -> Storage:
            dtype, key, count, _ = _parsed(about)
            record = records[f'{folder}data/{key}']
            if record.file_size != count * dtype.itemsize:
                raise ValueError(f'a storage of {count} elements has {record.file_size} bytes')
            if key not in storages:
                values = torch.empty(record.file_size, dtype=torch.uint8, device=device)
                with archive.open(record) as content:
                    _fill(values, content)
                storages[key] = Storage(values, dtype)
            return storages[key]._replace(dtype=dtype)

        return PlainUnpickler(io.BytesIO(archive.read(pickles[0])), find_storage).load()


def _read_pickles(file: BinaryIO, size: int, device: torch.device) -> Any:
    """Read the format of torch < 1.6: pickles, then the storages, whose bytes fill the tensors' memory at the end."""
    storages: Dict[str, Storage] = {}

    def no_storage(about: tuple) -> Storage:
        raise ValueError('a tensor where there is none')

    def find_storage(about: tuple) -> Storage:
        dtype, key, count, view = _parsed(about)
        if key not in storages:
            claimed = count * dtype.itemsize + sum(storage.values.numel() for storage in storages.values())
            if claimed > size:
                raise ValueError(f'its tensors have {claimed} bytes and the file {size}')
            values = torch.empty(count * dtype.itemsize, dtype=torch.uint8, device=device)
            storages[key] = Storage(values, dtype)
        if view is None:
            return storages[key]._replace(dtype=dtype)
        _, offset, length = view
        values = storages[key].values[offset * dtype.itemsize :][: length * dtype.itemsize]
        return Storage(values, dtype)

    magic, protocol, _ = (PlainUnpickler(file, no_storage).load() for _ in range(3))
    if (magic, protocol) != (_MAGIC, 1001):
        raise ValueError('it is of an unknown version')
    found = PlainUnpickler(file, find_storage).load()
    keys: List[str] = PlainUnpickler(file, no_storage).load()
    if sorted(keys) != sorted(storages):
        raise ValueError('its storages are not those of its tensors')
    for key in keys:
        storage = storages[key]
        count = int.from_bytes(file.read(8), 'little')
        if count * storage.dtype.itemsize != storage.values.numel():
            raise ValueError(f'a storage has {count} elements in the place of {storage.values.numel()} bytes')
        _fill(storage.values, file)
    return found


def _parsed(about: tuple) -> Tuple[torch.dtype, str, int, Optional[tuple]]:
    """Returns type, key and number of elements of a storage, and in old files what part of it is meant."""
    kind, storage_type, key, _, count, *view = about
    if kind != 'storage' or type(storage_type) is not StorageType or type(key) is not str:
        raise NotPlainError('a persistent id of something else than a storage')
    if type(count) is not int or count < 0:
        raise ValueError('a storage without a size')
    return storage_type.dtype, key, count, view[0] if view else None


def _fill(values: torch.Tensor, file: Any) -> None:
    """Read all bytes of a tensor; uint8, one dimension."""
    content = values.numpy() if values.device.type == 'cpu' else np.empty(len(values), dtype=np.uint8)
    place = memoryview(content)
    while len(place):
        read = file.readinto(place[: 1 << 24])
        if not read:
            raise ValueError('it ends too early')
        place = place[read:]
    if isinstance(file, zipfile.ZipExtFile) and file.read(1):  # at its end it has compared the CRC
        raise ValueError('a record is longer than it says')
    if values.device.type != 'cpu':
        values.copy_(torch.from_numpy(content))


# ---------------------------------------------------------------- what a checkpoint holds
def _check_checkpoint(found: Any) -> None:
    """Require a dict with names; of what MMEngine reads without looking, the kinds that it takes for granted."""
    if not isinstance(found, dict):
        raise _NoCheckpointError(f'it holds a {type(found).__name__}, not a dict of weights')
    parts = [part for part in ('state_dict', 'ema_state_dict', 'meta', 'message_hub') if part in found]
    for part in parts:
        if not isinstance(found[part], dict):
            raise _NoCheckpointError(f'its {part} is a {type(found[part]).__name__}, not a dict')
    for weights in [found, *(found[part] for part in parts[:2] if part.endswith('state_dict'))]:
        for key, value in weights.items():
            if not isinstance(key, str):
                raise _NoCheckpointError(f'{key!r} is no name of a weight')
            if weights is not found and not isinstance(value, torch.Tensor) and not key.endswith('_extra_state'):
                raise _NoCheckpointError(f'{printable(key, 200)} is a {type(value).__name__}, not a tensor')
    for counter, limit in (('epoch', 2**63), ('iter', 2**63), ('seed', 2**32)):
        count = found.get('meta', {}).get(counter)
        if count is not None and (type(count) is not int or not 0 <= count < limit):
            raise _NoCheckpointError(f'its meta says {counter} {printable(repr(count), 80)}, which is none')
