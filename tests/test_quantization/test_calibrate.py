import math

import pytest
import torch
from torch import nn

from mmacs.quantization import calibrate, quantize_model
from mmacs.utils.errors import MmacsError


@pytest.fixture
def model():
    return quantize_model(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)), 'w4a4')


def test_steps_are_those_of_the_equation_and_nothing_else_changes():
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)
    mean = dict(init='mean')
    model = quantize_model(nn.Sequential(*layers), dict(preset='w4a4', weight=mean, activation=mean)).train()
    before = {key: value.clone() for key, value in model.state_dict().items() if 'quantizer' not in key}
    batches = [torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)]
    assert calibrate(model, batches) == []
    conv = model[0]
    mean_abs = torch.stack([batch.abs().mean() for batch in batches]).mean()
    assert conv.input_quantizer.step.item() == pytest.approx(2 * mean_abs.item() / math.sqrt(127), rel=1e-5)
    per_channel = conv.weight.abs().flatten(1).mean(1)
    torch.testing.assert_close(conv.weight_quantizer.step.data, 2 * per_channel.data / math.sqrt(127))
    assert model.training and model[1].training
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_layers_that_did_not_run_are_named_and_their_weights_are_ready(model):
    missed = calibrate(model, [torch.randn(2, 3, 8, 8)], lambda batch: model[0](batch))
    assert missed == ['3.input_quantizer']
    assert model[3].weight_quantizer.is_initialized()


def test_a_batch_that_fails_changes_nothing(model):
    def forward(batch):
        model(batch)
        raise ZeroDivisionError

    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ZeroDivisionError):
        calibrate(model.train(), [torch.randn(2, 3, 8, 8)], forward)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.training
    assert not model[0].input_quantizer.observing


def test_no_batch_is_a_clear_error(model):
    with pytest.raises(MmacsError, match='at least one batch'):
        calibrate(model, [])


def test_one_tensor_is_no_list_of_batches(model):
    with pytest.raises(MmacsError, match=r'write calibrate\(model, \[images\]\)'):
        calibrate(model, torch.rand(2, 3, 8, 8))


def test_steps_that_exist_are_kept_and_missing_ones_are_added(model):
    calibrate(model, [torch.randn(2, 3, 8, 8)])
    model[3].input_quantizer.forget_range()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    calibrate(model, [10 * torch.randn(2, 3, 8, 8)])
    changed = [key for key, value in model.state_dict().items() if not torch.equal(before[key], value)]
    assert changed == ['3.input_quantizer.step', '3.input_quantizer.initialized']


@pytest.mark.parametrize('trained', [False, True])
def test_batch_norm_that_was_never_trained_shows_what_it_will_show_in_training(model, trained):
    model[0].weight.data.mul_(0.05)  # by the initial statistics, values after the BatchNorm would be as small
    if trained:
        model[1].running_var.fill_(4)
    before = {key: value.clone() for key, value in model[1].state_dict().items()}
    images, seen = torch.randn(4, 3, 8, 8), []
    calibrate(model, [images])
    assert all(torch.equal(value, before[key]) for key, value in model[1].state_dict().items())
    model[3].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.train()(images)
    largest = 255 * model[3].input_quantizer.step.item()  # 8 bits, without sign
    assert (0.3 < largest / seen[0].max().item() < 10) is not trained


def test_batch_norm_that_was_never_trained_takes_no_single_value(model):
    with pytest.raises(MmacsError, match='BatchNorm2d that was never trained normalises by the batch'):
        calibrate(model, [torch.randn(1, 3, 3, 3)])
    calibrate(model, [torch.randn(2, 3, 8, 8)])


def test_frozen_batch_norm_shows_its_own_statistics(model):
    model[0].weight.data.mul_(1e-3)
    model[1].train = lambda mode=True: model[1]  # as a backbone with norm_eval=True keeps it
    model[1].training = False
    calibrate(model, [torch.randn(4, 3, 8, 8)])
    assert model[3].input_quantizer.step.item() < 1e-2
