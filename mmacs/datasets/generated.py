"""Data sets that are drawn once, by whoever needs them first, and then only read."""

import json
import os
import zlib
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Callable, Dict, Mapping, Optional, Type, TypeVar

from mmacs.utils.checks import require_whole
from mmacs.utils.errors import MmacsError, unknown_name
from mmacs.utils.files import writing
from mmacs.utils.progress import phase

MANIFEST = 'manifest.json'

Spec = TypeVar('Spec')


LARGEST_SPEC = 10**7  # images drawn, pixels


def parse_spec(spec_type: Type[Spec], values: Optional[Mapping[str, int]]) -> Spec:
    """Build a spec from the part of a config that describes it.

    Args:
        spec_type (Type[Spec]): A dataclass of integers that all have defaults.
        values (Mapping[str, int], optional): The fields that differ from their defaults.

    Returns:
        Spec: The spec.

    Raises:
        MmacsError: If a field does not exist or its value is no natural number.
    """
    values = {} if values is None else values
    if not isinstance(values, Mapping):
        raise MmacsError(f'spec must be a dict of settings of the data set, got {values!r}')
    known = [field.name for field in fields(spec_type)]
    for name, value in values.items():
        if name not in known:
            raise unknown_name('field of the data set spec', name, known)
        require_whole(f'{name} of the data set spec', value, least=0, most=LARGEST_SPEC)
    return spec_type(**values)


def generate_once(root: Path, recipe: Dict[str, Any], write: Callable[[Path], None]) -> None:
    """Make sure that ``root`` holds the complete data set of ``recipe``.

    The data set is written beside ``root`` and renamed into place, so ``root`` is either absent or complete. Processes
    that start together each write their own copy, the first rename wins, and the rest drop theirs. What is found at
    ``root`` is checked file by file and never overwritten: it might be somebody's own data.

    Args:
        root (Path): The folder of the data set; it may be absent or empty.
        recipe (dict): All that decides the content, as JSON values: generator, version, sizes and seed.
        write (Callable[[Path], None]): Writes every file of the data set into the empty folder it is given. Two calls
            have to write the same bytes.

    Raises:
        MmacsError: If ``root`` holds something else or a damaged data set, or cannot be written.
    """
    if not _holds_something(root):
        try:
            with writing(root, elsewhere='choose another data_root'), phase(f'drawing the data set {root}'):
                _write_beside(root, recipe, write)
        except MmacsError:
            if not _holds_something(root):
                raise
    _check(root, recipe)


def _holds_something(root: Path) -> bool:
    return root.is_file() or (root.is_dir() and any(root.iterdir()))


def _write_beside(root: Path, recipe: Dict[str, Any], write: Callable[[Path], None]) -> None:
    root.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f'.{root.name}-', dir=root.parent) as scratch:
        # One level deeper, because the temporary folder itself is readable by its owner alone.
        draft = Path(scratch) / root.name
        draft.mkdir()
        write(draft)
        checksums = {path.relative_to(draft).as_posix(): _checksum(path) for path in draft.rglob('*') if path.is_file()}
        manifest = {'recipe': recipe, 'checksums': dict(sorted(checksums.items()))}
        (draft / MANIFEST).write_text(json.dumps(manifest, indent=1))
        os.rename(draft, root)


def _check(root: Path, recipe: Dict[str, Any]) -> None:
    try:
        manifest = json.loads((root / MANIFEST).read_text())
        found, checksums = dict(manifest['recipe']), dict(manifest['checksums'])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MmacsError(
            f'{str(root)!r} holds no embedded data set of mmacs ({MANIFEST} is missing or unreadable): '
            'choose another data_root, or delete the folder to have it drawn again'
        ) from error
    if found != recipe:
        differing = sorted(key for key in {*found, *recipe} if found.get(key) != recipe.get(key))
        changes = ', '.join(f'{key} is {found.get(key)!r} instead of {recipe.get(key)!r}' for key in differing)
        raise MmacsError(
            f'{str(root)!r} holds another embedded data set ({changes}): '
            'choose another data_root, or delete the folder to have it drawn again'
        )
    with phase(f'checking the data set {root}', len(checksums), 'files') as under_way:
        for name, checksum in under_way.each(checksums.items()):
            path = root / name
            if not path.is_file() or _checksum(path) != checksum:
                raise MmacsError(
                    f'the embedded data set {str(root)!r} is damaged ({name} is missing or altered): '
                    'delete the folder to have it drawn again'
                )


def _checksum(path: Path) -> int:
    return zlib.crc32(path.read_bytes())
