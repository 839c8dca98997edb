"""The small residual networks for CIFAR.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2. MMPreTrain's ``ResNet_CIFAR`` is
another network: ResNet-18 and up, with the stem changed.
"""

from typing import Any, Dict, List, Optional, Tuple, Union

import torch.nn.functional as F  # noqa: N812
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmacs.quantization.blocks import Addition
from mmacs.registry import MODELS
from mmacs.utils.errors import MmacsError


def shortcut_a(x: Tensor, out_channels: int) -> Tensor:
    """Shortcut without parameters into a stage of half the size and more channels, "option A" of the paper.

    Args:
        x (Tensor): Features (N, C, H, W).
        out_channels (int): Channels of the stage, at least C.

    Returns:
        Tensor: Every second row and column of ``x`` between zero channels, (N, out_channels, ceil(H/2), ceil(W/2)).
        The paper does not say where the zeros go; half before and half after is what the public weights expect.
    """
    extra = out_channels - x.shape[1]
    return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, extra // 2, extra - extra // 2))


class BasicBlock(BaseModule):
    """Two 3x3 convolutions and a shortcut.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        stride (int): 1, or 2 to halve height and width. Defaults to 1.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.stride = stride
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.addition_quantizers = Addition()  # has none and adds, unless the recipe quantizes additions

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        shortcut = x if self.stride == 1 else shortcut_a(x, self.out_channels)
        return self.relu(self.addition_quantizers(out, shortcut))


@MODELS.register_module()
class CIFARResNet(BaseModule):
    """Backbone of 6n + 2 layers: a 3x3 stem and three stages of n :class:`BasicBlock` with 16, 32 and 64 channels.

    Parameter names are those of https://github.com/akamaster/pytorch_resnet_cifar10, whose weights
    ``tools/convert_cifar_resnet.py`` converts.

    Args:
        depth (int): One of 20, 32, 44, 56 and 110. Counts the classifier, which is not part of the backbone.
        init_cfg (dict or list, optional): Initial weights. Defaults to those of the paper (He et al. 2015).

    Raises:
        MmacsError: If there is no network of this depth.
    """

    depths = (20, 32, 44, 56, 110)
    stage_channels = (16, 32, 64)

    def __init__(self, depth: int, init_cfg: Optional[Union[Dict[str, Any], List[Dict[str, Any]]]] = None) -> None:
        if depth not in self.depths:
            raise MmacsError(f'CIFARResNet has no depth {depth!r}: choose one of {", ".join(map(str, self.depths))}')
        if init_cfg is None:
            init_cfg = [
                dict(type='Kaiming', layer='Conv2d'),
                dict(type='Constant', val=1, layer='BatchNorm2d'),
            ]
        super().__init__(init_cfg)
        blocks = (depth - 2) // 6
        narrow, middle, wide = self.stage_channels
        self.conv1 = nn.Conv2d(3, narrow, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(narrow)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(narrow, narrow, blocks, stride=1)
        self.layer2 = _stage(narrow, middle, blocks, stride=2)
        self.layer3 = _stage(middle, wide, blocks, stride=2)

    def forward(self, x: Tensor) -> Tuple[Tensor]:
        """Compute the features.

        Args:
            x (Tensor): Images (N, 3, H, W), in CIFAR 32x32.

        Returns:
            Tuple[Tensor]: One element, as MMPreTrain's necks and heads expect: features (N, 64, H / 4, W / 4).
        """
        x = self.relu(self.bn1(self.conv1(x)))
        return (self.layer3(self.layer2(self.layer1(x))),)


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels) for _ in range(blocks - 1)))
