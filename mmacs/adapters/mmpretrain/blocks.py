"""MMPreTrain's blocks with quantized additions and concatenations."""

from typing import Any, List

from mmpretrain.models.backbones import mobilenet_v2, res2net, resnet, seresnet
from mmpretrain.models.backbones.cspnet import CSPStage, DarknetBottleneck
from mmpretrain.models.backbones.densenet import DenseBlock, DenseLayer
from mmpretrain.models.backbones.efficientnet import EdgeResidual
from mmpretrain.models.backbones.repvgg import MTSPPF, RepVGGBlock
from mmpretrain.models.utils.inverted_residual import InvertedResidual
from torch import Tensor

from mmacs.adapters.block_families import (
    DarknetShortcut,
    MobileNetV2Shortcut,
    MobileShortcut,
    Res2NetBlock,
    ResidualBlock,
    recomputed,
    switched_off,
)
from mmacs.quantization.blocks import Block, register_block

register_block(DarknetBottleneck)(DarknetShortcut)
register_block(InvertedResidual)(MobileShortcut)
register_block(mobilenet_v2.InvertedResidual)(MobileNetV2Shortcut)
register_block(res2net.Bottle2neck)(Res2NetBlock)


@register_block(resnet.BasicBlock, resnet.Bottleneck)
class DroppedBlock(ResidualBlock):
    """ResNet's blocks, whose branch can be dropped."""

    def branch(self, x: Tensor) -> Tensor:
        """All layers before the addition."""
        return self.drop_path(super().branch(x))


@register_block(seresnet.SEBottleneck)
class SqueezedBottleneck(ResidualBlock):
    """Bottleneck with squeeze and excitation at the end of its branch."""

    def branch(self, x: Tensor) -> Tensor:
        """All layers before the addition."""
        return self.se_layer(super().branch(x))


@register_block(EdgeResidual)
class EdgeShortcut(Block):
    """Fused inverted residual, whose branch can be dropped; EfficientNet's."""

    with_residual = switched_off()

    def num_additions(self: Any) -> int:
        """One, if it adds at all."""
        return int(self.with_residual)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        return self.add(x, self.drop_path(super().forward(x)))


@register_block(RepVGGBlock)
class BranchedBlock(Block):
    """Two convolutions side by side, and in most blocks a norm, before they are made one.

    Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", CVPR 2021, figure 2.
    """

    def num_additions(self: Any) -> int:
        """One less than branches."""
        return 0 if self.deploy else 1 + (self.branch_norm is not None)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H / stride, W / stride)."""
        return self.act(recomputed(self, self.sum_of_branches, x))

    def sum_of_branches(self, x: Tensor) -> Tensor:
        """Returns all before the activation."""
        if self.deploy:
            return self.branch_reparam(x)
        normed = None if self.branch_norm is None else self.branch_norm(x)  # first, as gradients are added up
        y = self.add(self.branch_3x3(x), self.branch_1x1(x))
        if normed is not None:
            y = self.add(y, normed, 1)
        return y if self.se_cfg is None else self.se_layer(y)


@register_block(MTSPPF)
class RepeatedlyPooled(Block):
    """Features, their maxima, and twice the maxima of these, side by side; YOLOX-PAI's."""

    def num_concatenations(self: Any) -> int:
        """One."""
        return 1

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H, W)."""
        pooled = [self.conv1(x)]
        for _ in range(3):
            pooled.append(self.maxpool(pooled[-1]))
        return self.conv2(self.concatenate(pooled))


@register_block(CSPStage)
class CrossStage(Block):
    """Half of the channels runs through the blocks. Wang et al., "CSPNet", CVPR Workshops 2020."""

    def num_concatenations(self: Any) -> int:
        """One."""
        return 1

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        x = self.expand_conv(self.downsample_conv(x))
        half = x.shape[1] // 2
        through = self.atfer_blocks_conv(self.blocks(x[:, half:]))
        return self.final_conv(self.concatenate([x[:, :half], through]))


@register_block(DenseLayer)
class ConcatenatingLayer(Block):
    """Reads all that the layers before it in its block made.

    Huang et al., "Densely Connected Convolutional Networks", CVPR 2017, section 3.
    """

    def num_concatenations(self: Any) -> int:
        """One."""
        return 1

    def bottleneck_fn(self, xs: List[Tensor]) -> Tensor:
        """Returns what the library's forward calls, or has recomputed, for features (N, C_i, H, W)."""
        return self.conv1(self.act(self.norm1(self.concatenate(xs))))


@register_block(DenseBlock)
class ConcatenatingBlock(Block):
    """Ends with all that its layers made."""

    def num_concatenations(self: Any) -> int:
        """One."""
        return 1

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H, W)."""
        features = [x]
        for layer in self.block:
            features.append(layer(features))
        return self.concatenate(features)
