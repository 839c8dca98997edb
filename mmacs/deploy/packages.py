"""The packages that deployment needs beside what mmacs always needs."""

from importlib import import_module
from types import ModuleType

from mmacs.utils.errors import MmacsError


def require(name: str) -> ModuleType:
    """Import a package of the extra ``deploy``.

    Args:
        name (str): Name of the module, such as ``'onnxruntime'``.

    Raises:
        MmacsError: If it is not installed, or does not load; the message says how to install it.
    """
    try:
        return import_module(name)
    except ImportError as error:
        how = "install the extra mmacs[deploy], as in `pip install 'path/to/mmacs[deploy]'`"
        raise MmacsError(f"{name} can't be imported ({error}): {how}") from error
