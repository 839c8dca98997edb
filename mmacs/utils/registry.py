"""Registries of what is ours alone: quantizers, scorers, selectors. They need no framework.

What MMEngine builds (models, hooks, samplers, data sets) is registered in :mod:`mmacs.registry`, in children of its own
registries.
"""

import inspect
from importlib import import_module
from typing import Any, Callable, Dict, Mapping, Optional, TypeVar

from mmacs.utils.errors import MmacsError, unknown_name

Kind = TypeVar('Kind', bound=type)


class Registry:
    """Classes by name, for configs such as ``dict(type='mmacs.LSQ', ...)``.

    Args:
        name (str): What is registered, such as ``'quantizer'``; error messages have it.
        location (str): Package whose import registers the classes of mmacs.
    """

    def __init__(self, name: str, location: str) -> None:
        self.name = name
        self._location = location
        self._classes: Dict[str, type] = {}

    @property
    def classes(self) -> Dict[str, type]:
        """Returns all classes by name."""
        import_module(self._location)
        return self._classes

    def register_module(self, name: Optional[str] = None) -> Callable[[Kind], Kind]:
        """Returns a class decorator that registers a class.

        A class that is defined again, as in a cell of a notebook, takes the place of the first.

        Args:
            name (str, optional): The name in configs; None takes that of the class.

        Raises:
            MmacsError: If another class has that name.
        """

        def register(kind: Kind) -> Kind:
            own = name or kind.__name__
            known = self._classes.get(own, kind)
            if (known.__module__, known.__qualname__) != (kind.__module__, kind.__qualname__):
                raise MmacsError(f'there is a {self.name} {own} already: choose another name')
            self._classes[own] = kind
            return kind

        return register

    def find(self, name: str) -> type:
        """Returns the class of a name, with or without the prefix ``mmacs.``.

        Raises:
            MmacsError: If there is no such name; the message has the closest one.
        """
        found = self.classes.get(str(name).removeprefix('mmacs.'))
        if found is None:
            raise unknown_name(self.name, name, self.classes)
        return found

    def build(self, config: Mapping[str, Any], base: Optional[type] = None) -> Any:
        """Builds an object from a config, a type and keyword arguments.

        Args:
            config (Mapping[str, Any]): The config.
            base (type, optional): The class that it must inherit.

        Raises:
            MmacsError: If there is no such type, or an argument is unknown; the message has the closest one.
        """
        if not isinstance(config, Mapping) or 'type' not in config:
            example = {'type': f'mmacs.{next(iter(self.classes))}'}
            raise MmacsError(f'a {self.name} must be a dict with a type, such as {example!r}, got {config!r}')
        settings = dict(config)
        kind = self.find(settings.pop('type'))
        known = inspect.signature(kind).parameters
        for name in settings:
            if not known:
                raise MmacsError(
                    f'{kind.__name__} has no arguments, got {name}: if a config that is inherited sets it, write '
                    f'dict(_delete_=True, type=...)'
                )
            if name not in known:
                raise unknown_name(f'argument of {kind.__name__}', name, known)
        built = kind(**settings)
        if base is not None and not isinstance(built, base):
            raise MmacsError(f'{kind.__name__} must inherit {base.__module__}.{base.__name__}')
        return built


QUANTIZERS = Registry('quantizer', 'mmacs.quantization.quantizers')
SCORERS = Registry('scorer', 'mmacs.coreset.scoring.scorers')
SELECTORS = Registry('selector', 'mmacs.coreset.selection.selectors')
