"""From a trained quantized model to a file that runtimes execute in integers.

The names are imported when they are first used: the packages of the extra ``deploy`` are needed only then.
"""

from mmacs.utils.lazy import lazy_names

_PLACES = {
    'mmacs.deploy.export': ('Exported', 'export_model', 'exported', 'write_file'),
    'mmacs.deploy.exported_model': ('ExportedModel',),
    'mmacs.deploy.packed': ('load', 'pack'),
    'mmacs.deploy.runtimes': ('open_model',),
}
__getattr__, __dir__, __all__ = lazy_names(__name__, _PLACES)
