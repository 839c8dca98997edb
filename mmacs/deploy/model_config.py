"""A model's config as plain JSON values, and the way back, where a stranger may have written them."""

import re
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Dict, List, Mapping, Optional, Tuple

from mmengine.registry import MODELS, TASK_UTILS, DefaultScope, Registry
from mmengine.registry import registry as mmengines
from torch import nn

from mmacs.models.quantized_model import build_quantized_model
from mmacs.utils.closed import closed
from mmacs.utils.errors import MmacsError, reason, shortened
from mmacs.utils.replaced import replaced

_TUPLE = '__tuple__'
_LIBRARIES = ('mmdet', 'mmpretrain', 'mmacs')
_DROPPED = ('init_cfg', 'pretrained', 'custom_imports')  # weights and modules from elsewhere
_FUNCTIONS = ('nms', 'soft_nms', 'nms_match')  # names that MMCV evaluates, in no registry
_WORDS = re.compile(r'[\w .,:+*-]{0,200}')  # no path, no URL, nothing that does something if it is evaluated
_NAME = re.compile(r'(?:(\w+)\.)?(\w+)')


def plain_config(value: Any, key: str = 'model') -> Any:
    """Returns a config as values that JSON can hold, without initial weights.

    Args:
        value (Any): The config, or a part of it. Tuples become ``{'__tuple__': [...]}``, registered
            classes their names.
        key (str): What it is called, for the message.

    Raises:
        MmacsError: If it holds something else.
    """
    if isinstance(value, Mapping):
        wrong = next((name for name in value if not isinstance(name, str)), None)
        if wrong is not None:
            raise MmacsError(f'{key} has the key {wrong!r}, which no file of a packed model can hold: use strings')
        return {name: plain_config(part, f'{key}.{name}') for name, part in value.items() if name not in _DROPPED}
    if isinstance(value, (list, tuple)):
        parts = [plain_config(part, f'{key}.{number}') for number, part in enumerate(value)]
        return {_TUPLE: parts} if isinstance(value, tuple) else parts
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    name = _registered_name(value)
    if name is None:
        raise MmacsError(f'{key} is {shortened(value)}, which no file of a packed model can hold: use plain values')
    return name


def from_plain(value: Any) -> Any:
    """Returns a config from what :func:`plain_config` made of it."""
    if isinstance(value, dict):
        if value.keys() == {_TUPLE} and isinstance(value[_TUPLE], list):
            return tuple(map(from_plain, value[_TUPLE]))
        return {name: from_plain(part) for name, part in value.items()}
    return list(map(from_plain, value)) if isinstance(value, list) else value


def build_from_strangers(config: Dict[str, Any], scope: Optional[str], file: str) -> Tuple[nn.Module, List[str]]:
    """Build a quantized model from a config that anybody may have written.

    Types are looked up in registries alone: MMEngine would import what a name with dots names. No text is a path, a URL
    or an expression. What would load weights or import modules is left out. No constructor gets at files, connections
    or processes.

    Args:
        config (dict): Settings of ``mmacs.QuantizedModel``.
        scope (str, optional): The library whose types need no prefix.
        file (str): Where they are from, for messages.

    Returns:
        Tuple[nn.Module, List[str]]: The model with weights that mean nothing, and the keys that were left out.

    Raises:
        MmacsError: If a type is unknown, a text is anything but words, or the model can't be built.
    """
    check = _Check(scope, file)
    recipe = config.pop('recipe')  # patterns and names of quantizers, which mmacs reads itself
    config = check.checked(from_plain(config), 'model')
    check.require_known(config.get('model'), 'model.model')
    with closed(), replaced(mmengines, 'get_object_from_string', lambda name: None):
        try:
            with DefaultScope.overwrite_default_scope(scope):
                return build_quantized_model(**config, recipe=recipe), check.dropped
        except Exception as error:
            raise MmacsError(f'cannot build the model of {file}: {reason(error)}') from error


class _Check:
    """Goes through a config that a stranger may have written."""

    def __init__(self, scope: Optional[str], file: str) -> None:
        if scope is not None and not isinstance(scope, str):
            raise MmacsError(f'{file} has {shortened(scope)} as the library of its model')
        self.file = file
        self.dropped: List[str] = []
        self.registries = _registries()
        if scope is not None and scope not in self.registries:
            raise MmacsError(f'{file} is a model of {shortened(scope)}, which is not installed, or not imported')

    def checked(self, value: Any, key: str) -> Any:
        """Returns a part of a config without what is left out."""
        if isinstance(value, dict):
            self.dropped += [f'{key}.{name}' for name in value if name in _DROPPED]
            kept = {name: part for name, part in value.items() if name not in _DROPPED}
            self.require_known(kept.get('type'), f'{key}.type')
            return {name: self.checked(part, f'{key}.{name}') for name, part in kept.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self.checked(part, f'{key}.{number}') for number, part in enumerate(value))
        if isinstance(value, str) and not _WORDS.fullmatch(value):
            raise MmacsError(f'{self.file} has {shortened(value)} as {key}, where models have words and numbers')
        return value

    def require_known(self, kind: Any, key: str) -> None:
        """Require a registered type; the settings of a nested model have their own."""
        if kind is None or isinstance(kind, dict):
            return
        found = _NAME.fullmatch(kind) if isinstance(kind, str) else None
        owner, name = found.groups() if found else (None, None)
        known = [self.registries.get(owner, ())] if owner else self.registries.values()
        if name in _FUNCTIONS or any(name in registry.module_dict for one in known for registry in one):
            return
        raise MmacsError(
            f'{self.file} has {shortened(kind)} as {key}, which no library has registered: import the module that '
            f'registers it first, if it is yours'
        )


def _registries() -> Dict[str, List[Registry]]:
    """Returns the registries that models are built from, filled, by the libraries that they are of."""
    for library in _LIBRARIES:
        if find_spec(library) is not None:
            import_module(f'{library}.registry')
    found: Dict[str, List[Registry]] = {}
    for root in (MODELS, TASK_UTILS):
        for owner, registry in {root.scope: root, **root.children}.items():
            registry.import_from_location()
            found.setdefault(owner, []).append(registry)
    return found


def _registered_name(kind: Any) -> Optional[str]:
    """Returns the name of a class in a registry of models, None where it has none."""
    return next(
        (
            f'{owner}.{name}'
            for owner, registries in _registries().items()
            for registry in registries
            for name, found in registry.module_dict.items()
            if found is kind
        ),
        None,
    )
