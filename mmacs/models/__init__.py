"""Networks that the frameworks lack."""

from mmacs.models.cifar_checkpoint import convert_cifar_checkpoint
from mmacs.models.cifar_resnet import CIFARResNet

__all__ = ['CIFARResNet', 'convert_cifar_checkpoint']
