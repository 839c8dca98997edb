"""Which libraries a model is made of, and the adapters that know them."""

import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Dict, Set

from torch import nn


def libraries_of(model: nn.Module) -> Set[str]:
    """Returns the root packages of all classes that the model's modules have or inherit, such as ``'mmdet'``."""
    kinds = {kind for module in model.modules() for kind in type(module).__mro__}
    return {kind.__module__.partition('.')[0] for kind in kinds}


def library_versions(model: nn.Module) -> Dict[str, str]:
    """Returns the versions of the packages that a model is made of, and of torch, mmengine and mmcv."""
    modules = {name: sys.modules.get(name) for name in (*libraries_of(model), 'torch', 'mmengine', 'mmcv')}
    return {name: str(module.__version__) for name, module in modules.items() if hasattr(module, '__version__')}


def load_adapters(model: nn.Module) -> None:
    """Import ``mmacs.adapters.<library>``, where there is one, for the libraries that a model is made of.

    Each registers what it knows of its library. One whose library is in no model is never imported.
    """
    for library in sorted(libraries_of(model)):  # in the same order in all processes
        _load_adapter(library)


@cache
def _load_adapter(library: str) -> None:
    name = f'mmacs.adapters.{library}'
    if find_spec(name) is not None:
        import_module(name)
