import math

import pytest
import torch

from mmacs.quantization.log_levels import log2_quantize, num_magnitudes, zero_bin
from mmacs.quantization.quantizers import LSQ, SDQ
from mmacs.quantization.specification import QuantizerSpecification
from mmacs.utils.errors import MmacsError

from .test_quantizer_family import calibrated
from .test_quantizer_gradients import agree, set_range, straight_through


def weights(seed=0, scale=0.05):
    return scale * torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(seed))


def weight_quantizer(**kwargs):
    return SDQ(kind='weight', signed=True, num_channels=6, **kwargs)


@pytest.mark.parametrize('options', [{}, dict(logarithmic=True, pruning=0.3)])
def test_a_weight_that_grows_as_a_whole_keeps_its_levels(options):
    quantizer = calibrated(weight_quantizer(bits=3, **options), weights()).train()
    y = quantizer(weights())
    torch.testing.assert_close(quantizer(8 * weights()), 8 * y)
    assert not torch.allclose(calibrated(LSQ(bits=3, kind='weight', num_channels=6), weights())(8 * weights()), 8 * y)


def test_it_starts_where_lsq_does_and_a_step_of_sgd_moves_the_levels_as_far():
    steps = []
    for kind in (SDQ, LSQ):
        quantizer = calibrated(kind(bits=3, kind='weight', signed=True, num_channels=6), weights())
        optimizer = torch.optim.SGD(quantizer.parameters(), lr=1e-3)
        (quantizer(weights()) - weights(1)).square().sum().backward()
        optimizer.step()
        steps.append(quantizer.grid().step)
    torch.testing.assert_close(*steps)


def test_alpha_has_lsqs_gradient_over_the_deviation_and_the_weight_its_own():
    x = weights().requires_grad_()
    quantizer = set_range(weight_quantizer(bits=3), alpha=torch.linspace(0.4, 0.9, 6), deviation=1.0)
    deviation = x.detach().reshape(6, -1).std(1, correction=0).reshape(-1, 1, 1, 1)
    alpha = quantizer.alpha.reshape(-1, 1, 1, 1)
    g = 1 / math.sqrt(45 * 3) / deviation**2
    s = (alpha * g + (alpha - alpha * g).detach()) * deviation
    v = (x / s).clamp(-4, 3)
    agree(quantizer, straight_through(v.round(), v) * s, x, (quantizer.alpha,), torch.randn(x.shape))


def test_the_deviation_of_activations_follows_the_batches_and_rests_in_eval_mode():
    quantizer = calibrated(SDQ(momentum=0.5, signed=True), torch.tensor([[-1.0, 1.0]]))
    quantizer.train()(torch.tensor([[-3.0, 3.0]]))
    assert quantizer.deviation.item() == pytest.approx(2)
    quantizer.eval()(torch.tensor([[-9.0, 9.0]]))
    assert quantizer.deviation.item() == pytest.approx(2)


def test_a_channel_of_one_value_has_its_magnitude_for_a_deviation():
    x = torch.tensor([[0.5], [-2.0], [0.0]])
    quantizer = calibrated(SDQ(kind='weight', signed=True, num_channels=3, bits=4), x).train()
    torch.testing.assert_close(quantizer(x), x, rtol=0.15, atol=0)
    torch.testing.assert_close(quantizer(3 * x), 3 * quantizer(x))


# ---------------------------------------------------------------- logarithmic levels
@pytest.mark.parametrize('bits', [2, 3, 4, 8])
@pytest.mark.parametrize('power_of_two', [False, True])
def test_logarithmic_levels_are_the_nearest_powers_of_two(bits, power_of_two):
    x = weights()
    quantizer = calibrated(weight_quantizer(bits=bits, logarithmic=True, power_of_two=power_of_two), x).eval()
    y = quantizer(x).detach()
    for row, values in zip(y.flatten(1), x.flatten(1)):
        largest = row.abs().max()
        ladder = largest * 0.5 ** torch.arange(num_magnitudes(bits))
        levels = torch.cat([-ladder, ladder, torch.zeros(1)])
        assert torch.isin(row, levels).all()
        nearest = levels[(values[:, None] - levels).abs().argmin(1)]
        torch.testing.assert_close(row, nearest)
        assert not power_of_two or largest.log2() == largest.log2().round()


@pytest.mark.parametrize('pruning', [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize('per_channel', [True, False])
def test_the_pruning_ratio_is_met_whatever_training_makes_of_the_weights(pruning, per_channel):
    channels = 6 if per_channel else 1
    quantizer = SDQ(bits=3, kind='weight', num_channels=channels, logarithmic=True, pruning=pruning)
    x = weights()
    calibrated(quantizer, x)
    for other in (x, weights(3) ** 3, weights(4) + 0.1):
        zeros = (quantizer.train()(other) == 0).reshape(channels, -1).float().mean(1)
        assert ((zeros - pruning).abs() <= 0.5 / (x.numel() / channels) + 1e-6).all()


@pytest.mark.parametrize('channels', [1, 6])
def test_logarithmic_levels_have_lsqs_gradients_with_the_largest_for_the_step(channels):
    x = weights(scale=1.0).requires_grad_()
    largest = (torch.rand(channels) + 1).requires_grad_()
    zero = zero_bin(x.detach().reshape(channels, -1), largest.detach(), 3, 0.4)
    upstream, y = torch.randn(x.shape), log2_quantize(x, largest, zero, 3)
    grad_x, grad_largest = torch.autograd.grad(y, (x, largest), upstream)
    m = largest.detach().reshape(-1, 1, 1, 1)
    inside = x.abs() <= m
    assert torch.equal(grad_x != 0, inside) and (y[inside] == 0).any()
    summands = upstream * torch.where(inside, (y - x) / m, x.sign())
    expected = summands.reshape(channels, -1).sum(1) / math.sqrt(x.numel() / channels)
    torch.testing.assert_close(grad_largest, expected.detach())


def test_what_cannot_be_is_refused():
    for settings, message in (
        (dict(logarithmic=True), 'SDQ has logarithmic levels for weights alone'),
        (dict(kind='weight', logarithmic=True, bits=1), 'need 2 bits'),
        (dict(kind='weight', pruning=0.5), 'set logarithmic=True'),
        (dict(kind='weight', logarithmic=True, pruning=1), 'at least 0 and below 1, got 1'),
        (dict(kind='weight', logarithmic='yes'), "logarithmic must be True or False, got 'yes'"),
    ):
        with pytest.raises(MmacsError, match=message):
            SDQ(**settings)
    quantizer = calibrated(weight_quantizer(bits=3, logarithmic=True, pruning=0.5), weights())
    quantizer.name = 'conv.weight_quantizer'
    with pytest.raises(MmacsError, match='conv.weight_quantizer has logarithmic levels, which need 2 bits'):
        quantizer.change_bits(1)
    with pytest.raises(MmacsError, match='conv.weight_quantizer is a SDQ, whose levels are not evenly spaced'):
        quantizer.grid()
    found = QuantizerSpecification.of(quantizer)
    assert found.options == dict(logarithmic=True, pruning=0.5)
    before = quantizer(weights()).abs().max()
    quantizer.change_bits(4)
    assert quantizer(weights()).abs().max() == before
