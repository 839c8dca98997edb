"""What the hook asks of quantizers and of models that are none."""

import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmacs.hooks.quantization_hook import STATE_KEY, QuantizationHook, warn_of_negative
from mmacs.quantization import calibrate, quantize_model
from mmacs.utils.errors import MmacsError


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


def test_the_weights_of_a_quantized_model_for_one_that_is_not_are_refused():
    """Such as an exported file in a config that still has the hooks of its training."""
    runner = SimpleNamespace(model=nn.Conv2d(2, 3, 1), _resume=False, cfg={}, message_hub=None)
    with pytest.raises(MmacsError, match='QuantizationHook found nothing quantized.*or leave the hook out'):
        QuantizationHook().after_load_checkpoint(runner, {STATE_KEY: {}, 'state_dict': {}})
