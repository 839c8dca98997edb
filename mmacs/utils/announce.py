"""Lets a config inherit ``mmacs::...`` where nothing has imported mmacs yet, as under MMDetection's own tools.

MMEngine finds such names only for the packages in a table of its own, and reads a config's bases before its
``custom_imports``. torch calls :func:`announce` when it is imported, by the entry point ``torch.backends`` of
the installed package, unless ``TORCH_DEVICE_BACKEND_AUTOLOAD=0`` forbids it. Nothing is imported for it.
"""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Optional

TABLE = 'mmengine.config.utils'  # the module that holds the table


def announce() -> None:
    """Adds mmacs to MMEngine's table of packages, now or when that is imported."""
    if TABLE in sys.modules:
        _add(sys.modules[TABLE])
    elif not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())


def _add(module: ModuleType) -> None:
    module.MODULE2PACKAGE.setdefault('mmacs', 'mmacs')


class _Watch:
    """Adds mmacs once the table's module has been executed; finds nothing by itself."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Optional[ModuleSpec]:
        """See :class:`importlib.abc.MetaPathFinder`."""
        if name != TABLE:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None:
            execute = spec.loader.exec_module

            def execute_and_add(module: ModuleType) -> None:
                execute(module)
                _add(module)

            spec.loader.exec_module = execute_and_add
        return spec
