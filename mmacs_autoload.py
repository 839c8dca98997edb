"""Lets a config inherit ``mmacs::...`` where nothing has imported mmacs yet, as under MMDetection's own tools.

MMEngine finds such names only for the packages in a table of its own, and reads a config's bases before its
``custom_imports``. This module adds mmacs to the table as soon as MMEngine is imported; it imports neither. Python runs
it at start by ``mmacs_autoload.pth`` in ``site-packages``; where there is no such file, as in editable installs and
below ``PYTHONPATH``, torch >= 2.5 runs it when imported, through the entry points for extensions (``torch.backends``).
"""

import sys
from importlib.util import find_spec

_TABLE = 'mmengine.config.utils'  # the module that holds the table


def announce() -> None:
    """Add mmacs to MMEngine's table of packages, now or when that is imported."""
    if _TABLE in sys.modules:
        _add(sys.modules[_TABLE])
    elif not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())


def _add(module) -> None:
    module.MODULE2PACKAGE.setdefault('mmacs', 'mmacs')


class _Watch:
    """Adds mmacs once the table's module has been executed; finds nothing by itself."""

    def find_spec(self, name, path=None, target=None):
        if name != _TABLE:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None:
            execute = spec.loader.exec_module

            def execute_and_add(module) -> None:
                execute(module)
                _add(module)

            spec.loader.exec_module = execute_and_add
        return spec


announce()
