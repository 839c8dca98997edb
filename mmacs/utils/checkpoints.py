"""Checkpoints that survive a kill, and that nobody need trust: none is ever half written, and none runs code."""

import os
import re
from contextlib import contextmanager
from functools import cache, wraps
from pathlib import Path
from typing import IO, Any, Callable, ClassVar, Iterator, Optional, Set, Union

import torch
from mmengine.config import Config
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import checkpoint_hook
from mmengine.runner import CheckpointLoader, FlexibleRunner, Runner

from mmacs.utils.checkpoint_file import read_checkpoint
from mmacs.utils.errors import MmacsError
from mmacs.utils.files import atomic_path, write_whole
from mmacs.utils.optimizer_state import require_sound_states
from mmacs.utils.replaced import replaced


class AtomicLocalBackend(LocalBackend):
    """MMEngine's local files, but a file that is written anew is either the old one or the whole new one.

    MMEngine removes an outdated checkpoint before it writes the next. With ``max_keep_ckpts=1`` that is the only one,
    so it stays here until the next one of its folder is whole.
    """

    _outdated: ClassVar[Set[Path]] = set()  # of all instances: MMEngine removes through one and writes through another

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        """Write bytes, as MMEngine's ``LocalBackend.put``."""
        final = Path(filepath)
        write_whole(final, obj, elsewhere='choose another --work-dir')
        if final.suffix == '.pth':
            due = {path for path in self._outdated if path.parent == final.parent}
            self._outdated.difference_update(due)
            for path in due - {final}:
                path.unlink(missing_ok=True)

    def remove(self, filepath: Union[str, Path]) -> None:
        """Remove a file, as MMEngine's ``LocalBackend.remove``; a checkpoint once another is written beside it."""
        if Path(filepath).suffix == '.pth' and self.isfile(filepath):
            self._outdated.add(Path(filepath))
        else:
            super().remove(filepath)


def write_atomically() -> None:
    """Have MMEngine write whole files: checkpoints, what else it puts on local disks, the note of the last one."""
    register_backend('local', AtomicLocalBackend, force=True, prefixes='')
    checkpoint_hook.open = _open_whole  # it writes that note without a backend


@contextmanager
def _open_whole(path: str, mode: str = 'r') -> Iterator[IO[str]]:
    """``open``, but a text file that is written takes its name when it is complete."""
    if mode != 'w':
        with open(path, mode) as file:
            yield file
    else:
        with atomic_path(path, elsewhere='choose another --work-dir') as temporary, open(temporary, 'w') as file:
            yield file


def latest_checkpoint(work_dir: os.PathLike) -> Optional[str]:
    """Returns the checkpoint to resume a run from.

    MMEngine notes the last one in a file after it has written it, and removes old ones before that: a run that was
    killed in between has a note that is missing, empty, or names a file that is gone.

    Args:
        work_dir (os.PathLike): Folder of the run.

    Returns:
        str, optional: The noted checkpoint if it is there, else the newest of the folder, else None.
    """
    note = Path(work_dir) / 'last_checkpoint'
    noted = note.read_bytes().decode(errors='replace').strip() if note.is_file() else ''
    if noted and '\0' not in noted:
        # its own first: in a copied folder, the note names a checkpoint of the folder that it was copied from
        for path in (Path(work_dir) / Path(noted).name, Path(noted)):
            if path.is_file():
                return str(path)
    saved = (re.fullmatch(r'(?:epoch|iter)_(\d+)\.pth', path.name) for path in Path(work_dir).glob('*.pth'))
    newest = max((match for match in saved if match), key=lambda match: int(match[1]), default=None)
    return None if newest is None else str(Path(work_dir) / newest[0])


@cache  # once is enough
def guard_loading() -> None:
    """Have MMEngine read all checkpoints by :func:`mmacs.utils.checkpoint_file.read_checkpoint`, and execute none.

    Whatever MMEngine loads goes through its ``CheckpointLoader``: ``load_from``, resumed runs, ``init_cfg``,
    ``init_detector`` and the inferencers. Its own reading allows classes that lead to any code, and where they don't
    suffice reads without restriction; its runners execute the text of the config that a resumed checkpoint holds.
    """
    CheckpointLoader.load_checkpoint = classmethod(_by_our_reader(CheckpointLoader.load_checkpoint.__func__))
    for runner in (Runner, FlexibleRunner):
        runner.resume = _without_execution(runner.resume)


def _by_our_reader(load: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps ``CheckpointLoader.load_checkpoint``, whose schemes (files, URLs, ...) all end in ``torch.load``."""

    @wraps(load)
    def load_checkpoint(loader: type, filename: Union[str, os.PathLike], *args: Any, **kwargs: Any) -> Any:
        filename = os.fspath(filename)
        if ':' not in filename and not os.path.isfile(os.path.expanduser(filename)):
            read_checkpoint(os.path.expanduser(filename))  # says what it is
        with replaced(torch, 'load', lambda file, map_location=None, *_, **__: read_checkpoint(file, map_location)):
            return load(loader, filename, *args, **kwargs)

    return load_checkpoint


def _without_execution(resume: Callable[..., None]) -> Callable[..., None]:
    """Wraps ``resume`` of a runner, which executes a checkpoint's config to look for ``gpu_ids``, a key of MMCV 1."""

    @wraps(resume)
    def resume_without_execution(runner: Any, filename: str, *args: Any, **kwargs: Any) -> None:
        try:
            with replaced(Config, 'fromstring', staticmethod(lambda *_, **__: Config())):
                resume(runner, filename, *args, **kwargs)
            require_sound_states(getattr(runner, 'optim_wrapper', None), getattr(runner, 'param_schedulers', None))
        except MmacsError:
            raise
        except KeyError as error:
            raise MmacsError(
                f'cannot resume from {filename}: it has no {error}, as checkpoints of runs have; to start from its '
                f'weights alone, set load_from'
            ) from error
        except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise MmacsError(f'cannot resume from {filename}, which does not fit this run: {error}') from error

    return resume_without_execution
