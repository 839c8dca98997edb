"""Networks that the frameworks lack, and what builds quantized models from configs."""

from importlib.util import find_spec

from mmacs.models.cifar_checkpoint import convert_cifar_checkpoint
from mmacs.models.cifar_resnet import CIFARResNet
from mmacs.models.quantized_model import build_quantized_model
from mmacs.quantization.batch_norm import PerLevelBatchNorm2d
from mmacs.registry import MODELS

if find_spec('mmpretrain'):
    from mmacs.models.efficientnet_lite import EfficientNetLite0  # noqa: F401

__all__ = ['CIFARResNet', 'build_quantized_model', 'convert_cifar_checkpoint']

MODELS.register_module(name='PerLevelBN', module=PerLevelBatchNorm2d)
