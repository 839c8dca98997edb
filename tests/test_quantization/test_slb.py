import copy
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch import nn

from mmacs.hooks import BatchNormReestimationHook, QuantizationHook
from mmacs.quantization import calibrate, quantize_model, quantizers, reestimate_batch_norm, set_progress
from mmacs.quantization.quantizers import SLB
from mmacs.utils.errors import MmacsError

from .test_quantizer_family import calibrated

SHAPE = (6, 4, 3, 3)


def weight_quantizer(x, bits=2, **kwargs):
    return calibrated(SLB(shape=x.shape, kind='weight', signed=True, bits=bits, num_channels=len(x), **kwargs), x)


def soft_and_hard(quantizer, x):
    with torch.no_grad():
        return quantizer.train()(x), quantizer.eval()(x)


def gap(model):
    """Mean distance between soft and hard weights, in steps."""
    found = []
    for _, quantizer in quantizers(model):
        if isinstance(quantizer, SLB):
            soft, hard = soft_and_hard(quantizer, quantizer.logits[0])
            found.append(((soft - hard).flatten(1).abs() / quantizer.step[:, None]).mean())
    model.train()
    return torch.stack(found).mean().item()


def model_and_data():
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 3))
    images = torch.randn(64, 2, 6, 6)
    labels = images.mean((2, 3)).sum(1).sub(0.1).sign().long() + 1
    quantize_model(model, dict(preset='w2a32', weight=dict(type='SLB'), rules=[dict(name='*', weight=dict(bits=2))]))
    calibrate(model, [images])
    return model.train(), images, labels


def train(model, optimizer, images, labels, steps):
    for number in steps:
        set_progress(model, number / 40)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()


@pytest.mark.parametrize('bits', [1, 2, 4])
@pytest.mark.parametrize('progress', [0.0, 0.5])
def test_weights_and_gradients_are_those_of_the_softmax(bits, progress):
    x = torch.randn(SHAPE)
    quantizer = weight_quantizer(x, bits).train()
    quantizer.progress.fill_(progress)
    upstream, (step, offset, low, high) = torch.randn(SHAPE), quantizer.grid()
    y = quantizer(x)
    y.backward(upstream)
    temperature = 0.01 ** (progress / 0.8)
    unit = (64 * torch.pi) ** -0.25
    scale = step.reshape(-1, 1, 1, 1)
    a = (quantizer.logits.detach() / (unit * scale)).requires_grad_()
    p = (a / temperature).softmax(0)
    levels = torch.arange(low, high + 1).reshape(-1, 1, 1, 1, 1) * scale
    levels = levels if offset is None else levels + offset.reshape(-1, 1, 1, 1)
    expected = (p * levels).sum(0)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(quantizer.logits.grad * unit * scale, p * (levels - y) / temperature * upstream)


@pytest.mark.parametrize('bits', [2, 4, 8])
def test_it_starts_at_the_weight_and_the_likeliest_level_is_the_nearest(bits):
    x = torch.randn(SHAPE)
    quantizer = weight_quantizer(x, bits)
    step, _, low, high = quantizer.grid()
    position = x / step.reshape(-1, 1, 1, 1)
    soft, hard = (values / step.reshape(-1, 1, 1, 1) for values in soft_and_hard(quantizer, x))
    torch.testing.assert_close(hard, position.round().clamp(low, high))
    inside = (position > low + 1) & (position < high - 1)
    assert inside.any()
    assert (soft - position)[inside].abs().max() < 0.1
    assert (soft - position.clamp(low, high)).abs().max() < 0.2


def test_a_step_of_sgd_moves_the_weights_about_as_far_as_ordinary_ones():
    x = torch.rand(1, 5000) * 0.1 - 0.05
    quantizer = weight_quantizer(x, bits=4).train()
    before = quantizer(x).detach().clone()
    quantizer(x).sum().backward()
    with torch.no_grad():
        quantizer.logits.sub_(1e-4 * quantizer.logits.grad)
        assert -1.2e-4 < (quantizer(x) - before).mean() < -0.7e-4


def test_soft_and_hard_weights_become_the_same_and_a_resumed_run_goes_on_as_it_would():
    model, images, labels = model_and_data()
    start = gap(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    train(model, optimizer, images, labels, range(20))
    resumed, _, _ = model_and_data()
    resumed.load_state_dict(copy.deepcopy(model.state_dict()))
    again = torch.optim.SGD(resumed.parameters(), lr=0.05, momentum=0.9)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    half = gap(model)
    for one, its_optimizer in ((model, optimizer), (resumed, again)):
        train(one, its_optimizer, images, labels, range(20, 40))
    assert start > 0.1 > half > gap(model)
    assert gap(model) < 0.01
    assert all(map(torch.equal, model.state_dict().values(), resumed.state_dict().values()))
    logits = model.train()(images), model.eval()(images)
    assert torch.equal(*(each.argmax(1) for each in logits)) and (logits[1].argmax(1) == labels).float().mean() > 0.8


def test_batch_norm_is_reestimated_for_the_hard_weights():
    model, images, _ = model_and_data()
    reestimate_batch_norm(model, [images])
    assert model.training
    with torch.no_grad():
        soft, hard = (model.train(mode)[0](images).mean((0, 2, 3)) for mode in (True, False))
    torch.testing.assert_close(model[1].running_mean, hard)
    assert not torch.allclose(model[1].running_mean, soft)


def test_the_hook_says_how_far_the_run_is_and_warns_where_batch_norm_does_not_follow():
    model, _, _ = model_and_data()
    hook, runner = QuantizationHook(), SimpleNamespace(model=model, iter=30, max_iters=120, hooks=[], logger=Mock())
    runner.train_loop = Mock(spec=IterBasedTrainLoop)
    hook._prepare_run_followers(runner)
    (message,) = runner.logger.warning.call_args.args
    assert (
        message.startswith('With SLB weights lie between their levels')
        and 'add mmacs.BatchNormReestimationHook' in message
    )
    runner.hooks = [BatchNormReestimationHook()]
    hook._prepare_run_followers(runner)
    assert runner.logger.warning.call_count == 1
    hook.before_train_iter(runner, 0)
    assert model[0].weight_quantizer.progress.item() == 0.25
    runner.train_loop, runner.epoch, runner.max_epochs = Mock(spec=EpochBasedTrainLoop), 1, 4
    runner.train_dataloader = [None] * 10  # epochs may differ in length
    hook.before_train_iter(runner, 5)
    assert model[0].weight_quantizer.progress.item() == 0.375


def test_what_does_not_fit_is_refused():
    for settings, message in (
        (dict(temperature=0), 'temperature, that at the end, must be above 0 and below 1, got 0'),
        (dict(annealed=1.5), 'annealed, a share of the run, must be above 0 and at most 1, got 1.5'),
        (dict(bits=8, shape=(720, 256, 3, 3)), r'256 numbers for each weight, 1.6 GiB for one of shape \(720, 256, 3'),
    ):
        with pytest.raises(MmacsError, match=message):
            SLB(**{'kind': 'weight', 'shape': (4, 4), **settings})
    quantizer = weight_quantizer(torch.randn(SHAPE))
    quantizer.name = 'conv.weight_quantizer'
    with pytest.raises(MmacsError, match='conv.weight_quantizer is a SLB of 2 bits, each weight a distribution'):
        quantizer.change_bits(4)
    with pytest.raises(MmacsError, match='progress, a share of the run, must be a number from 0 to 1, got 2'):
        set_progress(nn.Identity(), 2)
