"""What is known of mmcv's layers."""

from importlib.util import find_spec

from mmacs.adapters.mmcv import layers, modules  # noqa: F401  registers them

if find_spec('mmcv._ext'):  # mmcv-lite has no compiled operations
    from mmacs.adapters.mmcv import deformable  # noqa: F401
