"""The teacher of a run: one full-precision model, whichever of the hooks asks for it first."""

from pathlib import Path
from typing import Optional, Tuple
from weakref import ReferenceType, WeakKeyDictionary, ref

from mmengine.runner import Runner
from torch import nn

from mmacs.hooks.run import unwrapped
from mmacs.teacher.model import load_teacher, make_teacher, save_teacher
from mmacs.utils.distributed import on_main
from mmacs.utils.errors import MmacsError

# The teacher itself is kept by those who need it, and leaves memory with the last of them.
_TEACHERS: 'WeakKeyDictionary[Runner, Tuple[ReferenceType[nn.Module], str]]' = WeakKeyDictionary()


def run_teacher(runner: Runner, expected: Optional[str] = None) -> Tuple[nn.Module, str]:
    """Returns the full-precision model that a run started from, frozen, and the fingerprint of its weights.

    A run that starts makes it of the model's weights and writes ``<work dir>/teacher.pth``; later, and in a resumed
    run, it is read from that file, since the run's own weights have moved on. As long as somebody holds it, all who ask
    get the same object. Call it in all processes.

    Args:
        runner (Runner): The run, its weights loaded.
        expected (str, optional): The fingerprint that the teacher has; None if the run starts.

    Raises:
        MmacsError: If there is no such file, or other weights are in it.
    """
    held, fingerprint = _TEACHERS.get(runner, (lambda: None, None))
    teacher = held()
    if teacher is None:
        teacher, fingerprint = _start(runner) if expected is None else _resume(runner, expected)
        _TEACHERS[runner] = ref(teacher), fingerprint
    if expected not in (None, fingerprint):
        raise MmacsError('cannot resume: the hooks of the checkpoint had different teachers')
    return teacher, fingerprint


def _start(runner: Runner) -> Tuple[nn.Module, str]:
    teacher = make_teacher(unwrapped(runner))
    return teacher, on_main(lambda: save_teacher(teacher, Path(runner.work_dir) / 'teacher.pth'))


def _resume(runner: Runner, expected: str) -> Tuple[nn.Module, str]:
    path = Path(runner.work_dir) / 'teacher.pth'
    if not path.exists() and runner.cfg.get('load_from'):
        # resumed from a checkpoint of another work dir: its teacher lies beside it
        path = Path(runner.cfg.load_from).parent / 'teacher.pth'
    return load_teacher(unwrapped(runner), path, expected), expected
