"""Inf under a loss scale: some of it is nothing, much of it is a sentence."""

import pytest
import torch
from torch import nn

from mmacs.hooks.nonfinite import MAX_SKIPS, NonfiniteWatch
from mmacs.quantization import calibrate, quantize_model, quantizers
from mmacs.utils.errors import MmacsError


class Scaled:
    """An optimizer wrapper with the loss scale of mixed precision."""

    loss_scaler = torch.amp.GradScaler('cpu')


@pytest.fixture
def model():
    model = quantize_model(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 3, 1)), 'w4a4')
    calibrate(model, [torch.randn(2, 3, 4, 4)])
    return model


def meet(model):
    """What happens on a GPU, where no forward looks."""
    model[1].input_quantizer.met_nonfinite.fill_(True)


def test_without_a_loss_scale_the_first_one_ends_the_run(model):
    meet(model)
    with pytest.raises(MmacsError, match='1.input_quantizer met NaN or Inf'):
        NonfiniteWatch().ask(model)


def test_what_a_loss_scale_skips_is_tolerated_up_to_a_number(model):
    watch = NonfiniteWatch()
    for _ in range(2):
        for _ in range(MAX_SKIPS - 1):
            meet(model)
            watch.ask(model, Scaled())
            assert not any(quantizer.met_nonfinite for _, quantizer in quantizers(model))
        watch.ask(model, Scaled())  # none: the count starts anew
    with pytest.raises(MmacsError, match="again and again.*optim_wrapper.dtype='bfloat16'"):
        for _ in range(MAX_SKIPS):
            meet(model)
            watch.ask(model, Scaled())


def test_a_step_that_has_become_nan_ends_the_run_under_a_loss_scale_too(model):
    meet(model)
    model[1].input_quantizer.step.data.fill_(torch.nan)
    with pytest.raises(MmacsError, match='learned NaN or Inf as its step'):
        NonfiniteWatch().ask(model, Scaled())


@pytest.mark.parametrize('kind', ['EMAMinMax', 'MinMax', 'Percentile', 'OCTAV'])
def test_ranges_that_follow_the_data_do_not_follow_it_to_infinity(kind):
    model = quantize_model(nn.Sequential(nn.Conv2d(3, 4, 1)), dict(activation=dict(type=kind, bits=4)))
    calibrate(model, [torch.randn(2, 3, 4, 4)])
    quantizer = model[0].input_quantizer
    before = {key: value.clone() for key, value in quantizer.state_dict().items()}
    with torch.no_grad():
        quantizer.refresh(torch.full((1, 3, 2, 2), torch.inf), 0)
        quantizer.refresh(torch.full((1, 3, 2, 2), torch.nan), 0)
    assert all(torch.equal(value, before[key]) for key, value in quantizer.state_dict().items())
