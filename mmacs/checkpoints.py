"""Checkpoints that survive a kill: none is ever half written, and the latest is found."""

import os
import re
from pathlib import Path
from typing import Optional, Union

from mmengine.fileio import LocalBackend, register_backend
from mmengine.runner import find_latest_checkpoint

from mmacs.files import atomic_path


class AtomicLocalBackend(LocalBackend):
    """MMEngine's local files, but a file that is written anew is either the old one or the whole new one."""

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        """Write bytes, as MMEngine's ``LocalBackend.put``."""
        with atomic_path(filepath) as path:
            path.write_bytes(obj)


def write_atomically() -> None:
    """Have MMEngine write checkpoints, and whatever else it puts on local disks, through this backend."""
    register_backend('local', AtomicLocalBackend, force=True, prefixes='')


def latest_checkpoint(work_dir: os.PathLike) -> Optional[str]:
    """The checkpoint to resume a run from.

    MMEngine notes the last one in a file after it has written it, and removes old ones before that: a run that was
    killed in between has a note that is missing, empty, or names a file that is gone.

    Args:
        work_dir (os.PathLike): Folder of the run.

    Returns:
        str, optional: The noted checkpoint if it is there, else the newest of the folder, else None.
    """
    noted = find_latest_checkpoint(str(work_dir)) if (Path(work_dir) / 'last_checkpoint').exists() else None
    if noted and Path(noted).exists():
        return noted
    saved = (re.fullmatch(r'(?:epoch|iter)_(\d+)\.pth', path.name) for path in Path(work_dir).glob('*.pth'))
    newest = max((match for match in saved if match), key=lambda match: int(match[1]), default=None)
    return None if newest is None else str(Path(work_dir) / newest[0])
