"""Registries. The first five are children of MMEngine's, so that configs write ``type='mmacs.<Name>'``."""

from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import Registry

from mmacs.checkpoints import write_atomically
from mmacs.compat import check_frameworks
from mmacs.errors import unknown_name

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
