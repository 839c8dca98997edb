"""What is known of the modules that mmcv wraps around layers."""

from mmcv.cnn import ConvModule

from mmacs.quantization.freeze import register_order
from mmacs.quantization.roles import register_wrapper

register_wrapper(ConvModule, 'conv', lambda module: module.with_norm or module.with_activation)
# it registers them in this order whatever order it applies them in
register_order(ConvModule, lambda module: 'conv,norm' in ','.join(module.order))
