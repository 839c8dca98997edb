"""The teacher of a run: one full-precision model, whichever of the hooks asks for it first."""

from pathlib import Path
from typing import NamedTuple, Optional, Tuple
from weakref import ReferenceType, WeakKeyDictionary, ref

from mmengine.runner import Runner
from torch import nn

from mmacs.hooks.run import unwrapped
from mmacs.teacher.model import load_teacher, make_teacher, save_teacher
from mmacs.utils.distributed import on_main, together
from mmacs.utils.errors import MmacsError


class _Known(NamedTuple):
    """The teacher of a run. It is kept by those who need it, and leaves memory with the last of them."""

    teacher: 'ReferenceType[nn.Module]'
    fingerprint: str
    path: Path  # of its weights


_TEACHERS: 'WeakKeyDictionary[Runner, _Known]' = WeakKeyDictionary()


def run_teacher(runner: Runner, expected: Optional[str] = None) -> Tuple[nn.Module, str]:
    """Returns the full-precision model that a run started from, frozen, and the fingerprint of its weights.

    A run that starts makes it of the model's weights and writes ``<work dir>/teacher.pth``; later, and in a resumed
    run, it is read from that file, since the run's own weights have moved on. As long as somebody holds it, all who ask
    get the same object. Call it in all processes.

    Args:
        runner (Runner): The run, its weights loaded.
        expected (str, optional): The fingerprint that a resumed checkpoint has; None if the run starts.

    Raises:
        MmacsError: If there is no such file, or other weights are in it.
    """
    known = _TEACHERS.get(runner)
    teacher = None if known is None else known.teacher()
    if teacher is None:
        if known is None and expected is None:
            path = Path(runner.work_dir) / 'teacher.pth'
            teacher = make_teacher(unwrapped(runner))
            fingerprint = on_main(lambda: save_teacher(teacher, path))
        else:
            fingerprint, path = (expected, _path(runner)) if known is None else known[1:]
            with together():
                teacher = load_teacher(unwrapped(runner), path, fingerprint)
        known = _TEACHERS[runner] = _Known(ref(teacher), fingerprint, path)
    if expected not in (None, known.fingerprint):
        raise MmacsError('cannot resume: the hooks of the checkpoint had different teachers')
    return teacher, known.fingerprint


def _path(runner: Runner) -> Path:
    """Returns the file of a resumed run's teacher."""
    path = Path(runner.work_dir) / 'teacher.pth'
    if not path.exists() and runner.cfg.get('load_from'):
        # resumed from a checkpoint of another work dir: its teacher lies beside it
        path = Path(runner.cfg.load_from).parent / 'teacher.pth'
    return path
