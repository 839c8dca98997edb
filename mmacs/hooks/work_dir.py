"""One run per work dir, and nothing of killed ones left in it."""

import os
from pathlib import Path

from mmengine.runner import Runner

from mmacs.utils.distributed import on_main
from mmacs.utils.files import DAY, remove_leftovers
from mmacs.utils.lock import LOCK, hold_work_dir, unlock

_FOLDERS = ('', 'coreset', 'training_data')  # that a run writes files into


def take(work_dir: os.PathLike) -> None:
    """Keep other runs out of a work dir until this process ends, and remove what killed runs left half written in it.

    Raises:
        MmacsError: If another run uses it, or it can't be written to.
    """
    locked = hold_work_dir(work_dir)
    for folder in _FOLDERS:
        remove_leftovers(Path(work_dir) / folder, older_than=0 if locked else DAY)


def take_work_dir(runner: Runner) -> None:
    """:func:`take` the work dir of a run. Call it in all processes: the main one holds it for all."""
    on_main(lambda: take(runner.work_dir))


def leave_work_dir(runner: Runner) -> None:
    """Let other runs in."""
    unlock(Path(runner.work_dir) / LOCK)
