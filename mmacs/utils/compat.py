"""The frameworks that mmacs stands on: are they there, and new enough."""

from importlib import import_module

from mmacs.utils.errors import MmacsError

_INSTALL = '`python3.11 tools/bootstrap.py setup` in a clone of mmacs installs what it needs'
# Oldest release of each framework that mmacs is tested with.
_OLDEST = {'torch': (2, 6), 'mmengine': (0, 10, 7), 'mmcv': (2, 1), 'mmdet': (3, 3), 'mmpretrain': (1, 2)}


def _release(version: str) -> tuple:
    return tuple(int(part) for part in version.split('+')[0].split('.')[:3] if part.isdigit())


def check_frameworks() -> None:
    """Check that all frameworks are there, MMDetection and MMPreTrain only if installed, and new enough.

    Raises:
        MmacsError: See :func:`check_framework`.
    """
    for name in _OLDEST:
        check_framework(name)


def check_framework(name: str) -> None:
    """Check one framework.

    Args:
        name (str): Of its module, such as ``'torch'``.

    Raises:
        MmacsError: If it is torch or MMEngine and is missing, or if it fails to import or is too old.
    """
    try:
        module = import_module(name)
    except Exception as error:  # frameworks also assert that their versions fit each other
        if isinstance(error, ImportError) and error.name == name:
            if name in ('torch', 'mmengine'):
                raise MmacsError(f'mmacs needs {name}, which is not installed: {_INSTALL}') from error
            return
        raise MmacsError(f'{name} is installed but does not import ({error}): {_INSTALL}') from error
    if _release(module.__version__) < _OLDEST[name]:
        wanted = '.'.join(map(str, _OLDEST[name]))
        raise MmacsError(f'mmacs needs {name} >= {wanted}, found {module.__version__}: {_INSTALL}')
