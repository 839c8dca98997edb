"""MMDetection's blocks and necks with quantized additions and concatenations."""

from functools import partial
from typing import Any, List, Sequence, Tuple

import torch.nn.functional as F  # noqa: N812
from mmdet.models.backbones import darknet, res2net, resnet
from mmdet.models.backbones.csp_darknet import Focus, SPPBottleneck
from mmdet.models.layers.csp_layer import CSPLayer, CSPNeXtBlock, DarknetBottleneck
from mmdet.models.layers.inverted_residual import InvertedResidual
from mmdet.models.layers.res_layer import SimplifiedBasicBlock
from mmdet.models.necks import FPN, PAFPN, YOLOXPAFPN, CSPNeXtPAFPN
from torch import Tensor

from mmacs.adapters.block_families import DarknetShortcut, MobileShortcut, Res2NetBlock, ResidualBlock
from mmacs.quantization.blocks import Block, register_block

register_block(CSPNeXtBlock, DarknetBottleneck)(DarknetShortcut)
register_block(InvertedResidual)(MobileShortcut)
register_block(resnet.BasicBlock)(ResidualBlock)


class WithPlugins(ResidualBlock):
    """Bottleneck that may have plugins after its convolutions."""

    def after_layer(self, index: int, x: Tensor) -> Tensor:
        """Run the plugins after a convolution."""
        return self.forward_plugin(x, getattr(self, f'after_conv{index}_plugin_names')) if self.with_plugins else x


@register_block(resnet.Bottleneck)
class PluggedBottleneck(WithPlugins):
    """ResNet's and ResNeXt's bottleneck."""


@register_block(res2net.Bottle2neck)
class PluggedRes2NetBlock(WithPlugins, Res2NetBlock):
    """Res2Net's bottleneck."""


@register_block(SimplifiedBasicBlock)
class UnactivatedBlock(ResidualBlock):
    """Basic block with optional norms, and no activation after the addition."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H / stride, W / stride)."""
        return self.residual_sum(x)

    def layer(self, index: int, x: Tensor) -> Tensor:
        """Returns the convolution of a number, and its norm if there is one."""
        return super().layer(index, x) if self.with_norm else getattr(self, f'conv{index}')(x)


@register_block(darknet.ResBlock)
class DarknetBlock(Block):
    """Two convolutions and a shortcut; YOLOv3's."""

    def num_additions(self: Any) -> int:
        """One."""
        return 1

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        return self.add(self.conv2(self.conv1(x)), x)


@register_block(FPN)
class Pyramid(Block):
    """Feature pyramid: lateral features, to each of which the coarser level is added from the top down.

    Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, figure 3.
    """

    def num_additions(self: Any) -> int:
        """One between each two levels."""
        return len(self.lateral_convs) - 1

    def forward(self, inputs: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        """One (N, in_channels[i], H_i, W_i) for each level of the backbone, to ``num_outs`` with ``out_channels``."""
        assert len(inputs) == len(self.in_channels)
        laterals = self.top_down([conv(x) for conv, x in zip(self.lateral_convs, inputs[self.start_level :])])
        outs = self.outputs(laterals)
        return tuple(outs + self.extra_levels(inputs[self.backbone_end_level - 1], laterals[-1], outs[-1]))

    def top_down(self, laterals: List[Tensor]) -> List[Tensor]:
        """Lateral features, finest first, with all that is coarser added."""
        merged = laterals[-1:]
        for index, lateral in enumerate(reversed(laterals[:-1])):
            enlarge = partial(self.enlarged, fine=lateral)
            if self.interpolates():
                merged.insert(0, self.add(lateral, enlarge(merged[0]), index))
            else:
                merged.insert(0, self.add(lateral, merged[0], index, enlarge=enlarge))
        return merged

    def interpolates(self) -> bool:
        """Returns whether an enlarged level has other values than the level."""
        return not self.upsample_cfg.get('mode', 'nearest').startswith('nearest')

    def enlarged(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Returns a level in the size of the one below it."""
        size = {} if 'scale_factor' in self.upsample_cfg else {'size': fine.shape[2:]}
        return F.interpolate(coarse, **size, **self.upsample_cfg)

    def outputs(self, laterals: List[Tensor]) -> List[Tensor]:
        """Returns what the levels of the backbone become."""
        return [conv(lateral) for conv, lateral in zip(self.fpn_convs, laterals)]

    def extra_levels(self, last_input: Tensor, last_lateral: Tensor, last_output: Tensor) -> List[Tensor]:
        """Coarser levels than the backbone has, by subsampling or by convolutions of stride 2."""
        levels: List[Tensor] = []
        above = {'on_input': last_input, 'on_lateral': last_lateral}.get(self.add_extra_convs, last_output)
        for index in range(len(self.lateral_convs), self.num_outs):
            if not self.add_extra_convs:
                above = F.max_pool2d(above, 1, stride=2)
            else:
                above = self.fpn_convs[index](F.relu(above) if levels and self.relu_before_extra_convs else above)
            levels.append(above)
        return levels


@register_block(PAFPN)
class PathAggregation(Pyramid):
    """Feature pyramid, on which a path from the bottom up follows.

    Liu et al., "Path Aggregation Network for Instance Segmentation", CVPR 2018, figure 1.
    """

    def num_additions(self: Any) -> int:
        """Two between each two levels."""
        return 2 * (len(self.lateral_convs) - 1)

    def enlarged(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Returns a level in the size of the one below it, whatever ``upsample_cfg`` says."""
        return F.interpolate(coarse, size=fine.shape[2:], mode='nearest')

    def interpolates(self) -> bool:
        """No, whatever ``upsample_cfg`` says."""
        return False

    def outputs(self, laterals: List[Tensor]) -> List[Tensor]:
        """Returns what the levels of the backbone become: each has all that is finer added."""
        first, *coarser = super().outputs(laterals)
        outs, path = [first], [first]
        for index, (level, shrink, conv) in enumerate(zip(coarser, self.downsample_convs, self.pafpn_convs)):
            path.append(self.add(level, shrink(path[-1]), len(coarser) + index))
            outs.append(conv(path[-1]))
        return outs


@register_block(YOLOXPAFPN, CSPNeXtPAFPN)
class ConcatenatingPyramid(Block):
    """Path aggregation that concatenates neighbouring levels; YOLOX's and RTMDet's."""

    def num_concatenations(self: Any) -> int:
        """Two between each two levels."""
        return 2 * (len(self.in_channels) - 1)

    def forward(self, inputs: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        """One (N, in_channels[i], H_i, W_i) for each level, to (N, out_channels, H_i, W_i)."""
        assert len(inputs) == len(self.in_channels)
        top, *finer = reversed(inputs)
        levels = [top]  # finest first; the first one is narrowed once it is read
        for index, (fine, narrow, block) in enumerate(zip(finer, self.reduce_layers, self.top_down_blocks)):
            levels[0] = narrow(levels[0])
            levels.insert(0, block(self.concatenate([self.upsample(levels[0]), fine], index)))
        first, *coarser = levels
        outs = [first]
        for index, (coarse, shrink, block) in enumerate(zip(coarser, self.downsamples, self.bottom_up_blocks)):
            outs.append(block(self.concatenate([shrink(outs[-1]), coarse], len(finer) + index)))
        return tuple(conv(out) for conv, out in zip(self.out_convs, outs))


@register_block(CSPLayer)
class CrossStageLayer(Block):
    """Two branches side by side, one with the blocks. Wang et al., "CSPNet", CVPR Workshops 2020."""

    def num_concatenations(self: Any) -> int:
        """One."""
        return 1

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H, W)."""
        short = self.short_conv(x)
        both = self.concatenate([self.blocks(self.main_conv(x)), short])
        return self.final_conv(self.attention(both) if self.channel_attention else both)


@register_block(SPPBottleneck)
class PooledPyramid(Block):
    """Features and their maxima over windows of several sizes, side by side."""

    def num_concatenations(self: Any) -> int:
        """One."""
        return 1

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H, W)."""
        x = self.conv1(x)
        return self.conv2(self.concatenate([x, *(pool(x) for pool in self.poolings)]))


@register_block(Focus)
class FocusStem(Block):
    """The four pixels of each 2 x 2 square as channels; YOLOX's stem."""

    sees_image = True

    def num_concatenations(self: Any) -> int:
        """One."""
        return 1

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H / 2, W / 2)."""
        return self.conv(self.concatenate([x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]))
