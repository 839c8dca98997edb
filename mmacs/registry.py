"""Registries. The first five are children of MMEngine's, so that configs write ``type='mmacs.<Name>'``."""

import inspect
from typing import Any, Mapping, Optional

from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import Registry

from mmacs.checkpoints import write_atomically
from mmacs.compat import check_frameworks
from mmacs.errors import MmacsError, unknown_name

check_frameworks()
write_atomically()

MODULE2PACKAGE.setdefault('mmacs', 'mmacs')  # configs can inherit 'mmacs::<name>.py'

MODELS = Registry(
    'model',
    parent=MMENGINE_MODELS,
    scope='mmacs',
    locations=['mmacs.quantization.builder', 'mmacs.quantization.batch_norm', 'mmacs.models'],
)
DATASETS = Registry('dataset', parent=MMENGINE_DATASETS, scope='mmacs', locations=['mmacs.datasets'])
DATA_SAMPLERS = Registry(
    'data sampler', parent=MMENGINE_DATA_SAMPLERS, scope='mmacs', locations=['mmacs.coreset.sampler']
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope='mmacs',
    locations=['mmacs.quantization.optimizer'],
)
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='mmacs', locations=['mmacs.hooks'])

QUANTIZERS = Registry('quantizer', scope='mmacs', locations=['mmacs.quantization.quantizers'])
SCORERS = Registry('scorer', scope='mmacs', locations=['mmacs.coreset.scorers'])
SELECTORS = Registry('selector', scope='mmacs', locations=['mmacs.coreset.selectors'])


def find(registry: Registry, name: str) -> type:
    """Look up a class by name in one of our own registries, with or without the prefix ``mmacs.``.

    Raises:
        MmacsError: If there is no such name; the message has the closest one.
    """
    registry.import_from_location()
    found = registry.module_dict.get(name.removeprefix('mmacs.'))
    if found is None:
        raise unknown_name(registry.name, name, registry.module_dict)
    return found


def build(registry: Registry, config: Mapping[str, Any], base: Optional[type] = None) -> Any:
    """Build an object of one of our own registries from its config, a type and keyword arguments.

    Args:
        registry (Registry): ``SCORERS`` or another one of ours.
        config (Mapping[str, Any]): Its config.
        base (type, optional): The class that it must inherit.

    Raises:
        MmacsError: If there is no such type, or an argument is unknown; the message has the closest one.
    """
    if not isinstance(config, Mapping) or 'type' not in config:
        registry.import_from_location()
        example = {'type': f'mmacs.{next(iter(registry.module_dict))}'}
        raise MmacsError(f'a {registry.name} must be a dict with a type, such as {example!r}, got {config!r}')
    settings = dict(config)
    kind = find(registry, settings.pop('type'))
    known = inspect.signature(kind).parameters
    for name in settings:
        if not known:
            raise MmacsError(f'{kind.__name__} has no arguments, got {name}')
        if name not in known:
            raise unknown_name(f'argument of {kind.__name__}', name, known)
    built = kind(**settings)
    if base is not None and not isinstance(built, base):
        raise MmacsError(f'{kind.__name__} must inherit {base.__module__}.{base.__name__}')
    return built
