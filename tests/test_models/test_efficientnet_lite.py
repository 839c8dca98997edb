import torch
from torch import nn

from mmacs.registry import MODELS


def test_it_is_the_published_network():
    model = MODELS.build(dict(type='mmacs.EfficientNetLite0'))
    model.eval()
    of_classifier = 1280 * 1000 + 1000
    assert sum(parameter.numel() for parameter in model.parameters()) + of_classifier == 4_652_008
    kinds = {type(module) for module in model.modules()}
    assert nn.ReLU6 in kinds and not {nn.SiLU, nn.Sigmoid} & kinds
    assert [tuple(x.shape) for x in model(torch.zeros(1, 3, 64, 64))] == [(1, 1280, 2, 2)]
