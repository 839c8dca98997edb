"""Reading a config and changing it on the command line: what MMEngine cannot read is told by file, key and value."""

import argparse
import inspect
import os
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.config.utils import MODULE2PACKAGE, _get_package_and_cfg_path
from mmengine.runner import Runner

from mmacs.utils.errors import MmacsError, causes, nearest, reason, shortened, unknown_name
from mmacs.utils.files import misspelt

_READ, _MERGE = Config._file2dict.__code__, Config._merge_a_into_b.__code__


def read_options(options: Sequence[str]) -> Dict[str, Any]:
    """Returns the settings of ``--cfg-options KEY=VALUE ...``, as MMEngine reads them; the last of a key counts.

    Raises:
        MmacsError: If one has no value, or one that is neither a number, a word nor a list of them.
    """
    found = argparse.Namespace(settings=None)
    read = DictAction([], 'settings')
    for option in options:
        if not option.partition('=')[1] or option.startswith('='):
            raise MmacsError(f'--cfg-options takes KEY=VALUE, such as train_cfg.max_epochs=3, got {option!r}')
        try:
            read(None, found, [option])
        except Exception as error:
            raise MmacsError(
                f'--cfg-options reads numbers, words and lists of them, not {option!r}: give the keys of a dict '
                f'one by one, as in a.b.c=value, or write it into a config (a recipe also into a JSON file: '
                f'model.recipe=recipe.json)'
            ) from error
    return found.settings or {}


def read_config(file: os.PathLike) -> Config:
    """Returns a config with what it inherits.

    Raises:
        MmacsError: If it is not there, cannot be read, or does not fit what it inherits.
    """
    if Path(file).is_dir():
        raise MmacsError(f'{file} is a folder, not a config')
    try:
        _refuse_circle(str(file), ())
        return Config.fromfile(file)
    except MmacsError:
        raise
    except FileNotFoundError as error:
        raise _missing(Path(file), error) from error
    except ImportError as error:
        raise _failed_import(error, Path(file)) from error
    except Exception as error:
        raise MmacsError(_unreadable(Path(file), error)) from error


def _refuse_circle(file: str, heirs: Tuple[str, ...]) -> None:
    """Refuse a config that inherits itself, which MMEngine reads until the stack is full.

    Args:
        file (str): The config.
        heirs (Tuple[str, ...]): Configs that inherit it, the first one first.
    """
    file = os.path.abspath(file)
    if file in heirs:
        raise MmacsError(f'the config {heirs[0]} inherits itself: {" from ".join((*heirs, file))}')
    try:
        bases = Config._get_base_files(file)
    except Exception:  # what cannot be read is told where it is read
        return
    for base in bases:
        if isinstance(base, str) and '::' not in base:  # of a package, which knows nothing of these
            _refuse_circle(os.path.join(os.path.dirname(file), base), (*heirs, file))


def change_config(cfg: Config, options: Mapping[str, Any]) -> None:
    """Changes a config, in place, by options such as ``{'train_cfg.max_epochs': 3}``.

    Where the config has None, options give it a dict.

    Raises:
        MmacsError: If a key leads through something that has no keys, or is a misspelled one of the whole config.
    """
    for option in options:
        first, *rest = option.split('.')
        known = [*cfg, *inspect.signature(Runner).parameters]
        close = None if first in known else nearest(first, known, cutoff=0.8)
        if close is not None:
            raise MmacsError(f'--cfg-options {option}: the config has no {first!r}, did you mean {close!r}?')
        inside, path = cfg._cfg_dict, []
        for key, following in zip([first, *rest], rest):
            path.append(key)
            if isinstance(inside, list):
                inside = _entry(inside, key, option)
            else:
                if inside.get(key, ...) is None:
                    inside[key] = ConfigDict()
                inside = inside.get(key)
            if inside is None:
                break  # nothing there yet
            if not isinstance(inside, (dict, list)):
                raise _no_keys('.'.join(path), inside, f'--cfg-options sets {following} of it')
            if isinstance(inside, list):
                _entry(inside, following, option)
    cfg.merge_from_dict(dict(options))


def _entry(entries: List[Any], key: str, option: str) -> Any:
    if not key.isdigit() or int(key) >= len(entries):
        raise MmacsError(
            f'--cfg-options {option}: there is a list of {len(entries)} entries, counted from 0, and {key!r} is none '
            f'of them'
        )
    return entries[int(key)]


def _no_keys(path: str, value: Any, given: str) -> MmacsError:
    """The error for a dict, or a key of one, in the place of something else."""
    if path in ('model.model', 'model.model.model'):
        return MmacsError(
            "the config's model names its type, and its settings stand beside it: write model.backbone and the like in "
            'place of model.model.backbone'
        )
    return MmacsError(f'{path} is {shortened(value)}, which has no keys, and {given}')


def _unreadable(file: Path, error: Exception) -> str:
    """Returns what is wrong with a config, and where."""
    frames = list(traceback.walk_tb(error.__traceback__))
    read = [Path(frame.f_locals['filename']) for frame, _ in frames if _reads(frame)]
    inner = read[-1] if read else file  # one that it inherits, perhaps
    of = '' if inner == file or inner.samefile(file) else f', which {file} inherits'
    if frames[-1][0].f_code is _get_package_and_cfg_path.__code__:
        package = frames[-1][0].f_locals.get('package')
        if package is not None:
            return f'{inner}: {unknown_name("package of configs", package, MODULE2PACKAGE)}'
        return (
            f'{inner}: a config that is inherited from a package is named with its folder, such as '
            f'mmacs::retinanet/retinanet_r18_w4a4_acs.py'
        )
    keys = [frame.f_locals['k'] for frame, _ in frames if frame.f_code is _MERGE]
    if keys and isinstance(error, TypeError):
        base = frames[-1][0].f_locals['b'][keys[-1]]
        return (
            f'{inner}: {_no_keys(".".join(keys), base, "this config has a dict for it: add _delete_=True to the dict")}'
        )
    return f'cannot read the config {inner}{of}: {reason(error)}{_line(frames, inner)}'


def _missing(file: Path, error: FileNotFoundError) -> MmacsError:
    """The error for a config, or one that it inherits, that is not there; or for what a config itself opens."""
    read = [Path(frame.f_locals['filename']) for frame, _ in traceback.walk_tb(error.__traceback__) if _reads(frame)]
    if read and read[-1].exists():  # MMEngine looks for the configs of packages by itself, and says which in words
        missing = error.filename or str(error).partition('"')[2].partition('"')[0]
        return MmacsError(f'cannot read the config {read[-1]}: there is no file {missing}{misspelt(missing)}')
    missing = Path(os.path.normpath(read[-1])) if len(read) > 1 else file
    of = f', which {read[-2]} inherits' if len(read) > 1 else ''
    return MmacsError(f'no such config: {missing}{of}{misspelt(missing)}')


def _reads(frame: FrameType) -> bool:
    return frame.f_code is _READ


def _line(frames: List[Tuple[FrameType, int]], file: Path) -> str:
    """Returns the last line of the config itself that was executed."""
    lines = [number for frame, number in frames if frame.f_code.co_filename in ('', str(file))]
    return f' (line {lines[-1]})' if lines else ''


def _failed_import(error: ImportError, config: Path) -> MmacsError:
    """Say what failed at the bottom of an import that MMEngine tried, and where it lies if that is near the config."""
    *_, last = causes(error)
    name = str(getattr(last, 'name', None) or '')
    package = name.partition('.')[0]
    if name.startswith('mmacs.'):
        why = 'it moved in 0.2, see "Moved modules" in CHANGELOG.md; what is public is imported from mmacs itself'
    elif folder := next((at for at in (Path(), config.parent) if package and _holds(at, package)), None):
        why = f'{package} lies in {folder.resolve()}: put that on PYTHONPATH, as in PYTHONPATH={folder} mmacs train ...'
    else:
        why = 'is it installed, or its folder on PYTHONPATH?'
    return MmacsError(f'cannot import what custom_imports or _base_ names ({last}): {why}')


def _holds(folder: Path, package: str) -> bool:
    """Returns whether a folder that is not searched for modules holds a package or a module of this name."""
    searched = any(folder.resolve() == Path(entry).resolve() for entry in sys.path)
    return not searched and ((folder / package).is_dir() or (folder / f'{package}.py').is_file())
