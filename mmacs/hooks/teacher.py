"""The teacher of a run: one full-precision model, whichever of the hooks asks for it first."""

from pathlib import Path
from typing import Optional, Tuple
from weakref import WeakKeyDictionary

from mmengine.runner import Runner
from torch import nn

from mmacs.hooks.run import unwrapped
from mmacs.teacher.model import load_teacher, make_teacher, save_teacher
from mmacs.utils.distributed import on_main

_TEACHERS: 'WeakKeyDictionary[Runner, Tuple[nn.Module, str]]' = WeakKeyDictionary()


def run_teacher(runner: Runner, expected: Optional[str] = None) -> Tuple[nn.Module, str]:
    """The full-precision model that a run started from, frozen. All who ask in one run get the same object.

    A run that starts makes it of the model's weights and writes ``<work dir>/teacher.pth``; a resumed run reads that
    file, since its own weights have moved on. Call it in ``before_train`` of a hook, in all processes.

    Args:
        runner (Runner): The run, its weights loaded.
        expected (str, optional): The fingerprint that the resumed checkpoint has; None if the run starts.

    Returns:
        Tuple[nn.Module, str]: The teacher and the fingerprint of its weights, for the checkpoint.

    Raises:
        MmacsError: If a resumed run finds no such file, or other weights in it.
    """
    if runner not in _TEACHERS:
        _TEACHERS[runner] = _start(runner) if expected is None else _resume(runner, expected)
    return _TEACHERS[runner]


def _start(runner: Runner) -> Tuple[nn.Module, str]:
    teacher = make_teacher(unwrapped(runner))
    return teacher, on_main(lambda: save_teacher(teacher, Path(runner.work_dir) / 'teacher.pth'))


def _resume(runner: Runner, expected: str) -> Tuple[nn.Module, str]:
    path = Path(runner.work_dir) / 'teacher.pth'
    if not path.exists() and runner.cfg.get('load_from'):
        # resumed from a checkpoint of another work dir: its teacher lies beside it
        path = Path(runner.cfg.load_from).parent / 'teacher.pth'
    return load_teacher(unwrapped(runner), path, expected), expected
