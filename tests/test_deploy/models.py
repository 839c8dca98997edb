"""Small networks that what is deployed is tested with."""

from unittest.mock import patch

import torch
from torch import nn

from mmacs.quantization import calibrate, quantize_model, quantizers
from mmacs.quantization.blocks import Addition


class Small(nn.Module):
    """Convolutions of all kinds with norms of both signs, an addition, a shared layer, a linear one and attention."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=bias, padding_mode='reflect')
        self.bn2 = nn.BatchNorm2d(8)
        self.add = Addition()
        self.shared = nn.Conv2d(8, 8, 1, bias=bias)
        self.up = nn.ConvTranspose2d(8, 6, 2, 2, groups=2, bias=bias)
        self.fc = nn.Linear(6, 4, bias=bias)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, bias=bias)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = self.add(self.bn2(self.conv2(x)), x).relu()
        x = self.shared(self.shared(x).relu() * 1.01).relu()  # else sums lie between two levels of one step
        x = self.fc(self.up(x).relu().flatten(2).transpose(1, 2))
        return self.attention(x, x + 1, x)[0]


def with_random_norms(model: nn.Module) -> nn.Module:
    """Give BatchNorms statistics, and scales of both signs."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5).mul_(torch.randn_like(module.weight).sign())
            module.bias.data.normal_()
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


def quantized(model: nn.Module, recipe, batches, forward=None) -> nn.Module:
    """Convert a model and calibrate it; activations' ranges move a little, as in training.

    Fresh from calibration they are fractions of the largest values, so that many sums lie exactly between two levels.
    """
    with patch('mmacs.quantization.dry_run._SIZES', (8, 64)):  # attention to all of 64 x 64 takes gigabytes
        quantize_model(model, recipe)
    calibrate(model, batches, forward)
    for _, quantizer in quantizers(model):
        for name in ('step', 'clip', 'low', 'high'):
            if quantizer.kind == 'activation' and hasattr(quantizer, name):
                range_ = getattr(quantizer, name).data
                range_.mul_(torch.empty_like(range_).uniform_(0.9, 0.99))
    return model.eval()
