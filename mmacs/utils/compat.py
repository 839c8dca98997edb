"""The frameworks that mmacs stands on: are they there, new enough, and able to load checkpoints safely."""

from importlib import import_module
from pickle import UnpicklingError

from mmacs.utils.errors import MmacsError

_INSTALL = '`python3.11 tools/bootstrap.py setup` in a clone of mmacs installs what it needs'
# Oldest release of each framework that mmacs is tested with.
_OLDEST = {'torch': (2, 1), 'mmengine': (0, 10, 7), 'mmcv': (2, 1), 'mmdet': (3, 3), 'mmpretrain': (1, 2)}


def _release(version: str) -> tuple:
    return tuple(int(part) for part in version.split('+')[0].split('.')[:3] if part.isdigit())


def check_frameworks() -> None:
    """Check versions, and allow-list what MMEngine's checkpoints hold beside tensors.

    torch >= 2.6 refuses to load classes that are not allow-listed, so that a checkpoint cannot run code; MMEngine
    0.10.7 writes its history buffers into checkpoints without allow-listing them, and then cannot resume.

    Raises:
        MmacsError: If torch or MMEngine is missing, or any framework found is too old; MMDetection and MMPreTrain
            are each needed only by those who use them.
    """
    for name, oldest in _OLDEST.items():
        try:
            module = import_module(name)
        except Exception as error:  # frameworks also assert that their versions fit each other
            if isinstance(error, ImportError) and error.name == name:
                if name in ('torch', 'mmengine'):
                    raise MmacsError(f'mmacs needs {name}, which is not installed: {_INSTALL}') from error
                continue
            raise MmacsError(f'{name} is installed but does not import ({error}): {_INSTALL}') from error
        if _release(module.__version__) < oldest:
            wanted = '.'.join(map(str, oldest))
            raise MmacsError(f'mmacs needs {name} >= {wanted}, found {module.__version__}: {_INSTALL}')
    _allow_checkpoint_classes()


def _allow_checkpoint_classes() -> None:
    import numpy as np
    import torch
    from mmengine.logging import HistoryBuffer
    from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

    if not hasattr(torch.serialization, 'add_safe_globals'):
        return
    multiarray = import_module('numpy._core.multiarray' if np.__version__ >= '2' else 'numpy.core.multiarray')
    classes = [HistoryBuffer, OneCycleParamScheduler, np.ndarray, np.dtype]
    classes += {type(np.dtype(kind)) for kind in ('f8', 'f4', 'i8', 'i4', 'u8', 'u1', 'b1')}
    for function in (multiarray._reconstruct, multiarray.scalar):
        # a checkpoint written under the other major version of numpy names the same function differently
        classes += [(function, f'numpy.{core}.multiarray.{function.__name__}') for core in ('core', '_core')]
    # history buffers and one-cycle schedules hold methods of their class, which pickle writes down as calls of getattr
    classes.append((_known_method, 'builtins.getattr'))
    torch.serialization.add_safe_globals(classes)


def _known_method(owner: object, name: str) -> object:
    """``getattr`` for checkpoints: public methods of history buffers, annealing functions of one-cycle schedules."""
    from mmengine.logging import HistoryBuffer
    from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

    of_buffer = owner is HistoryBuffer and not name.startswith('_')
    of_schedule = owner is OneCycleParamScheduler and name in ('_annealing_cos', '_annealing_linear')
    if not of_buffer and not of_schedule:
        raise UnpicklingError(f'a checkpoint may not look up {name!r} of {owner!r}')
    return getattr(owner, name)
