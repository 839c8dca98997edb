"""Layers of mmcv in other words."""

import pytest
import torch
from mmcv.cnn.bricks import conv2d_adaptive_padding

from mmacs.adapters.mmcv.layers import Conv2dAdaptivePadding


@pytest.mark.parametrize('kernel', [1, 2, 3, 5])
@pytest.mark.parametrize('stride', [1, 2, 3])
def test_padding_is_that_of_mmcv(kernel, stride):
    for dilation in (1, 2):
        theirs = conv2d_adaptive_padding.Conv2dAdaptivePadding(2, 3, kernel, stride, dilation=dilation)
        ours = Conv2dAdaptivePadding(2, 3, kernel, stride, dilation=dilation)
        ours.load_state_dict(theirs.state_dict())
        for height in range(9, 14):
            x = torch.randn(1, 2, height, 12)
            torch.testing.assert_close(ours(x), theirs(x))
