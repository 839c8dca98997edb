"""Adapters are imported for the libraries that a model is made of, and for no others."""

import os
import subprocess
import sys

import pytest
from mmdet.models import FPN
from torch import nn

from mmacs.utils.libraries import libraries_of


def test_libraries_are_those_of_all_classes_and_of_what_they_inherit():
    class Own(FPN):
        """Inherits from MMDetection."""

    assert libraries_of(nn.Sequential(nn.ReLU())) == {'torch', 'builtins'}
    assert {'mmdet', 'mmcv', 'mmengine', 'torch'} <= libraries_of(nn.Sequential(Own([4, 4], 4, 2)))
    assert 'mmpretrain' not in libraries_of(Own([4, 4], 4, 2))


@pytest.mark.parametrize(
    ('model', 'loaded'),
    [
        ('torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1))', set()),
        ('__import__("torchvision").models.resnet18()', {'torchvision'}),
        ('__import__("mmcv").cnn.ConvModule(3, 3, 1)', {'mmcv'}),
    ],
)
def test_adapters_of_other_libraries_are_not_imported(model, loaded):
    program = (
        'import sys, torch; import mmcv.cnn; from mmacs.quantization import quantize_model; '
        f'quantize_model({model}); print(*(name[15:] for name in sys.modules if name.startswith("mmacs.adapters.")))'
    )
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', program], check=True, env=os.environ, capture_output=True, text=True
    )
    assert {name.split('.')[0] for name in done.stdout.split()} - {'block_families'} == loaded
