"""Quantized deformable convolutions of mmcv: the sampled input and the weight are quantized, offsets are not."""

from mmcv.ops import DeformConv2d, DeformConv2dPack, ModulatedDeformConv2d, ModulatedDeformConv2dPack
from torch import Tensor

from mmacs.quantization.layers.base import ReusedForward, register_layer, shadowed


@register_layer(DeformConv2d)
class QuantizedDeformConv2d(ReusedForward, DeformConv2d):
    """Deformable convolution, called with its input and offsets."""


@register_layer(ModulatedDeformConv2d)
class QuantizedModulatedDeformConv2d(ReusedForward, ModulatedDeformConv2d):
    """Modulated deformable convolution, called with its input, offsets and mask."""


class OwnOffsets(ReusedForward):
    """Deformable convolution whose child ``conv_offset``, a layer with quantizers of its own, makes the offsets."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H', W')."""
        return super().forward(x, self.conv_offset(x))  # from the input as it is: that layer has its own grid

    def original_forward(self, x: Tensor, offsets: Tensor) -> Tensor:
        """Returns the forward in full precision with these offsets."""
        with shadowed(self, conv_offset=lambda quantized: offsets):
            return super().original_forward(x)


@register_layer(DeformConv2dPack)
class QuantizedDeformConv2dPack(OwnOffsets, DeformConv2dPack):
    """Deformable convolution that makes its offsets."""


@register_layer(ModulatedDeformConv2dPack)
class QuantizedModulatedDeformConv2dPack(OwnOffsets, ModulatedDeformConv2dPack):
    """Modulated deformable convolution that makes its offsets and mask."""
