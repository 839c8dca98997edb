"""Registries. Those built by MMEngine are children of its own, so that configs write ``type='mmacs.<Name>'``."""

from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import Registry

from mmacs.utils.checkpoints import guard_loading, write_atomically
from mmacs.utils.compat import check_frameworks
from mmacs.utils.registry import QUANTIZERS, SCORERS, SELECTORS

__all__ = [
    'DATASETS',
    'DATA_SAMPLERS',
    'HOOKS',
    'MODELS',
    'OPTIM_WRAPPERS',
    'OPTIM_WRAPPER_CONSTRUCTORS',
    'QUANTIZERS',
    'SCORERS',
    'SELECTORS',
]

check_frameworks()
write_atomically()
guard_loading()

MODULE2PACKAGE.setdefault('mmacs', 'mmacs')  # configs can inherit 'mmacs::<name>.py'

MODELS = Registry(
    'model', parent=MMENGINE_MODELS, scope='mmacs', locations=['mmacs.models', 'mmacs.deploy.exported_model']
)
DATASETS = Registry('dataset', parent=MMENGINE_DATASETS, scope='mmacs', locations=['mmacs.datasets'])
DATA_SAMPLERS = Registry(
    'data sampler', parent=MMENGINE_DATA_SAMPLERS, scope='mmacs', locations=['mmacs.coreset.sampler']
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope='mmacs',
    locations=['mmacs.hooks.optim_constructor'],
)
OPTIM_WRAPPERS = Registry(
    'optimizer wrapper', parent=MMENGINE_OPTIM_WRAPPERS, scope='mmacs', locations=['mmacs.hooks.optim_wrapper']
)
HOOKS = Registry(
    'hook', parent=MMENGINE_HOOKS, scope='mmacs', locations=['mmacs.hooks', 'mmacs.visualization.report_hooks']
)
