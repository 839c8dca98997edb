"""Checkpoints that survive a kill: none is ever half written, and the latest is found."""

import os
import re
from pathlib import Path
from typing import ClassVar, Optional, Set, Union

from mmengine.fileio import LocalBackend, register_backend
from mmengine.runner import find_latest_checkpoint

from mmacs.utils.files import atomic_path


class AtomicLocalBackend(LocalBackend):
    """MMEngine's local files, but a file that is written anew is either the old one or the whole new one.

    MMEngine removes an outdated checkpoint before it writes the next. With ``max_keep_ckpts=1`` that is the only one,
    so it stays here until the next one of its folder is whole.
    """

    _outdated: ClassVar[Set[Path]] = set()  # of all instances: MMEngine removes through one and writes through another

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        """Write bytes, as MMEngine's ``LocalBackend.put``."""
        final = Path(filepath)
        with atomic_path(final) as path:
            path.write_bytes(obj)
        if final.suffix == '.pth':
            due = {path for path in self._outdated if path.parent == final.parent}
            self._outdated.difference_update(due)
            leftovers = final.parent.glob(f'.{final.stem}.[0-9]*.pth')  # of runs that were killed while writing it
            for path in (*due - {final}, *leftovers):
                path.unlink(missing_ok=True)

    def remove(self, filepath: Union[str, Path]) -> None:
        """Remove a file, as MMEngine's ``LocalBackend.remove``; a checkpoint once another is written beside it."""
        if Path(filepath).suffix == '.pth' and self.isfile(filepath):
            self._outdated.add(Path(filepath))
        else:
            super().remove(filepath)


def write_atomically() -> None:
    """Have MMEngine write checkpoints, and whatever else it puts on local disks, through this backend."""
    register_backend('local', AtomicLocalBackend, force=True, prefixes='')


def latest_checkpoint(work_dir: os.PathLike) -> Optional[str]:
    """Returns the checkpoint to resume a run from.

    MMEngine notes the last one in a file after it has written it, and removes old ones before that: a run that was
    killed in between has a note that is missing, empty, or names a file that is gone.

    Args:
        work_dir (os.PathLike): Folder of the run.

    Returns:
        str, optional: The noted checkpoint if it is there, else the newest of the folder, else None.
    """
    noted = find_latest_checkpoint(str(work_dir)) if (Path(work_dir) / 'last_checkpoint').exists() else None
    if noted:
        # its own first: in a copied folder, the note names a checkpoint of the folder that it was copied from
        for path in (Path(work_dir) / Path(noted).name, Path(noted)):
            if path.exists():
                return str(path)
    saved = (re.fullmatch(r'(?:epoch|iter)_(\d+)\.pth', path.name) for path in Path(work_dir).glob('*.pth'))
    newest = max((match for match in saved if match), key=lambda match: int(match[1]), default=None)
    return None if newest is None else str(Path(work_dir) / newest[0])
