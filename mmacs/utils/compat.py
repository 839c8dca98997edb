"""The frameworks that mmacs stands on: are they there, and new enough."""

from importlib import import_module

from mmacs.utils.errors import MmacsError

_INSTALL = '`python3.11 tools/bootstrap.py setup` in a clone of mmacs installs what it needs'
# Oldest release of each framework that mmacs is tested with.
_OLDEST = {'torch': (2, 1), 'mmengine': (0, 10, 7), 'mmcv': (2, 1), 'mmdet': (3, 3), 'mmpretrain': (1, 2)}


def _release(version: str) -> tuple:
    return tuple(int(part) for part in version.split('+')[0].split('.')[:3] if part.isdigit())


def check_frameworks() -> None:
    """Check versions.

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
