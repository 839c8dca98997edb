"""What is known of torchvision's models."""

from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock, Bottleneck

from mmacs.adapters.block_families import MobileNetV2Shortcut, ResidualBlock
from mmacs.quantization.blocks import register_block

register_block(InvertedResidual)(MobileNetV2Shortcut)


@register_block(BasicBlock, Bottleneck)
class TorchvisionResidualBlock(ResidualBlock):
    """ResNet's blocks, whose norms are ``bn1`` and so on."""

    norm_name = 'bn'
