"""What the hook asks quantizers that look at no value while they run, on GPUs and in compiled graphs."""

import warnings

import pytest
import torch
from torch import nn

from mmacs.hooks.quantization_hook import warn_of_negative
from mmacs.quantization import calibrate, quantize_model


def test_negative_values_are_warned_of_by_layer_and_once():
    model = quantize_model(nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1)), 'w8a8')
    calibrate(model, [torch.rand(2, 2, 5, 5)])
    model.train()
    compiled = torch.compile(model, backend='eager')
    compiled(torch.rand(2, 2, 5, 5))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        warn_of_negative(model)
        compiled(-torch.rand(2, 2, 5, 5))
    assert [model[index].input_quantizer.met_negative.item() for index in (0, 2)] == [True, False]
    with pytest.warns(RuntimeWarning, match='^0.input_quantizer met negative values in training'):
        warn_of_negative(model)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        warn_of_negative(model)
    torch._dynamo.reset()
