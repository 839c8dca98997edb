"""Blocks that several libraries have, with quantized additions and concatenations. They need torch alone."""

from typing import Any, Callable, List

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmacs.quantization.blocks import Block
from mmacs.quantization.sharing import values_of_its_own


def switched_off() -> property:
    """Returns a flag of the library that reads False, whatever the object has: its forward leaves out the addition."""
    return property(lambda self: False)


def recomputed(block: Any, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Returns ``function(x)``, whose inner activations the backward pass recomputes if the block has ``with_cp``."""
    if not (getattr(block, 'with_cp', False) and x.requires_grad):
        return function(x)

    def by_itself(x: Tensor) -> Tensor:
        with values_of_its_own(block):
            return function(x)

    return checkpoint(by_itself, x, use_reentrant=False)


class ResidualBlock(Block):
    """ResNet's blocks: convolutions with norms, an addition, an activation.

    He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, figure 5.
    """

    norm_name = 'norm'  # norms are called this, and the number of their convolution

    def num_additions(self: Any) -> int:
        """One."""
        return 1

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H / stride, W / stride)."""
        return self.relu(recomputed(self, self.residual_sum, x))

    def residual_sum(self, x: Tensor) -> Tensor:
        """Returns the branch and the shortcut, added in the branch's dtype, as ``+=`` does."""
        return self.add_shortcut(self.branch(x), x)

    def add_shortcut(self, branch: Tensor, x: Tensor, index: int = 0) -> Tensor:
        """Returns the sum of the branch and what the shortcut makes of the block's input."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.add(branch, shortcut, index).type_as(branch)

    def branch(self, x: Tensor) -> Tensor:
        """All layers before the addition."""
        last = 3 if hasattr(self, 'conv3') else 2
        for index in range(1, last):
            x = self.after_layer(index, self.relu(self.layer(index, x)))
        return self.after_layer(last, self.layer(last, x))

    def layer(self, index: int, x: Tensor) -> Tensor:
        """Returns the convolution of a number and its norm."""
        return getattr(self, f'{self.norm_name}{index}')(getattr(self, f'conv{index}')(x))

    def after_layer(self, index: int, x: Tensor) -> Tensor:
        """Returns what a library has after a layer and its activation."""
        return x


class Res2NetBlock(ResidualBlock):
    """A bottleneck whose middle is a ladder of convolutions on parts of the channels: additions and a concatenation.

    Gao et al., "Res2Net: A New Multi-scale Backbone Architecture", TPAMI 2021, figure 2.
    """

    def num_additions(self: Any) -> int:
        """Between neighbours of the ladder, in all but the first block of a stage, and that of the shortcut."""
        return 1 + (self.scales - 2) * (self.stage_type == 'normal')

    def num_concatenations(self: Any) -> int:
        """That of all parts."""
        return 1

    def residual_sum(self, x: Tensor) -> Tensor:
        """Returns the branch and the shortcut, added in the branch's dtype, as ``+=`` does."""
        return self.add_shortcut(self.branch(x), x, len(self.addition_steps()))

    def addition_steps(self) -> range:
        """Steps of the ladder that add the result of the step before."""
        return range(1, self.scales - 1) if self.stage_type == 'normal' else range(0)

    def branch(self, x: Tensor) -> Tensor:
        """All layers before the last addition."""
        x = self.after_layer(1, self.relu(self.layer(1, x)))
        x = self.after_layer(2, self.concatenate(self.ladder(torch.split(x, self.width, 1))))
        return self.after_layer(3, self.layer(3, x))

    def ladder(self, parts: List[Tensor]) -> List[Tensor]:
        """Parts of the channels, each convolved after the result before it was added, but for the last."""
        done: List[Tensor] = []
        for step, (conv, norm) in enumerate(zip(self.convs, self.bns)):
            part = self.add(done[-1], parts[step], step - 1) if step in self.addition_steps() else parts[step]
            done.append(self.relu(norm(conv(part.contiguous()))))
        return [*done, self.pool(parts[-1]) if hasattr(self, 'pool') else parts[-1]]


class DarknetShortcut(Block):
    """Bottleneck with ``add_identity``, which adds its input to its branch."""

    add_identity = switched_off()

    def num_additions(self: Any) -> int:
        """One, if it adds at all."""
        return int(self.add_identity)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        return self.add(super().forward(x), x)


class MobileShortcut(Block):
    """Inverted residual with ``with_res_shortcut``, whose branch can be dropped."""

    with_res_shortcut = switched_off()

    def num_additions(self: Any) -> int:
        """One, if it adds at all."""
        return int(self.with_res_shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        return self.add(x, self.drop_path(super().forward(x)))


class MobileNetV2Shortcut(Block):
    """Inverted residual with ``use_res_connect``."""

    use_res_connect = switched_off()

    def num_additions(self: Any) -> int:
        """One, if it adds at all."""
        return int(self.use_res_connect)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        return self.add(x, super().forward(x))
