import math
from collections import Counter

import pytest
import torch

from mmacs.quantization.class_probabilities import expected_slope
from mmacs.quantization.quantizers import CPQ, LSQ
from mmacs.utils.errors import MmacsError

from .test_quantizer_family import calibrated, values
from .test_quantizer_gradients import set_range


def probabilities(v, low, high, temperature):
    """P(k) of all classes, along a first axis."""
    inner = torch.arange(low, high) + 0.5
    borders = torch.cat([torch.tensor([-math.inf]), inner, torch.tensor([math.inf])]).view(-1, *[1] * v.dim())
    return torch.sigmoid((borders - v) / temperature).diff(dim=0)


@pytest.mark.parametrize('temperature', [1 / 6, 0.25])
@pytest.mark.parametrize('channels', [1, 4])
@pytest.mark.parametrize('signed', [True, False])
def test_the_mode_goes_forward_and_the_gradient_of_its_code_to_the_probabilities(temperature, channels, signed):
    x, upstream = values(2).requires_grad_(), torch.randn(values().shape)
    quantizer = CPQ(bits=3, kind='weight', num_channels=channels, temperature=temperature, signed=signed)
    set_range(quantizer, signed, step=torch.rand(channels) * 0.5 + 0.4)
    low, high = quantizer.bounds()
    g = 1 / math.sqrt(x.numel() / channels * high)
    s = quantizer.step.reshape(-1, 1, 1, 1)
    s = s * g + (s - s * g).detach()
    p = probabilities(x / s, low, high, temperature)
    code = torch.nn.functional.one_hot(p.argmax(0), high - low + 1).movedim(-1, 0)
    numbers = torch.arange(low, high + 1).reshape(-1, 1, 1, 1, 1)
    expected = ((p + (code - p).detach()) * numbers * s).sum(0)
    y = quantizer(x)
    at_outer_border = torch.stack([(x / s - border).abs() for border in (low + 0.5, high - 0.5)]).amin(0) < 0.01
    assert at_outer_border.float().mean() < 0.05
    torch.testing.assert_close(y[~at_outer_border], expected[~at_outer_border])
    upstream = upstream.masked_fill(at_outer_border, 0)
    wanted = torch.autograd.grad(expected, (x, quantizer.step), upstream)
    found = torch.autograd.grad(y, (x, quantizer.step), upstream)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_the_slope_is_that_of_the_expected_class():
    v = torch.linspace(-6, 6, 500, dtype=torch.float64)
    numbers, h = torch.arange(-4, 4).view(-1, 1), 1e-5
    for temperature in (1 / 6, 0.25):
        up, down = ((numbers * probabilities(v + way, -4, 3, temperature)).sum(0) for way in (h, -h))
        found = expected_slope(v, -4, 3, temperature)
        torch.testing.assert_close(found, (up - down) / (2 * h), rtol=1e-3, atol=1e-4)
    at = expected_slope(torch.tensor([0.0, 0.5, 3.0, 20.0]), -4, 3, 1 / 6).tolist()
    assert at == pytest.approx([0.54, 1.53, 0.27, 0.0], abs=0.01)


def test_weights_gather_around_the_grid_points():
    """Gradients that say nothing move weights less where they are least, and those of LSQ alike everywhere."""
    distances = {}
    for kind in (CPQ, LSQ):
        generator = torch.Generator().manual_seed(0)
        x = (torch.rand(2000, generator=generator) * 8 - 4).requires_grad_()
        quantizer = set_range(kind(bits=4, kind='weight'), step=1.0)
        for _ in range(100):
            upstream = 0.14 * torch.randn(2000, generator=generator)
            (gradient,) = torch.autograd.grad(quantizer(x), x, upstream)
            x.data.sub_(gradient)
        distances[kind] = (x - x.round()).abs().mean().item()
    assert distances[LSQ] == pytest.approx(0.25, abs=0.02)
    assert distances[CPQ] < 0.2


@pytest.mark.parametrize('signed', [True, False])
def test_drop_bits_leaves_out_the_outer_levels_in_training_alone(signed):
    x = values(3, unsigned=not signed)
    quantizer = set_range(CPQ(bits=4, drop=0.5, signed=signed), signed, step=0.2)
    seen = Counter()
    for seed in range(60):
        torch.manual_seed(seed)
        y = quantizer.train()(x)
        torch.manual_seed(seed)
        assert torch.equal(quantizer(x), y)
        seen[round(y.max().item() / 0.2)] += 1
        assert not signed or round(y.min().item() / 0.2) == -1 - round(y.max().item() / 0.2)
    highest = [7, 3, 1] if signed else [15, 7, 3, 1]
    assert sorted(seen, reverse=True) == highest
    assert seen[highest[0]] == pytest.approx(30, abs=12) and seen[highest[1]] == pytest.approx(15, abs=9)
    quantizer.zero_grad()
    quantizer(x).sum().backward()
    assert torch.isfinite(quantizer.step.grad).all()
    assert round(quantizer.eval()(x).max().item() / 0.2) == highest[0]
    assert quantizer.grid().q_max == highest[0]


def test_asymmetric_activations_and_one_bit_bear_it():
    x = values() - 1.5
    quantizer = calibrated(CPQ(bits=4, drop=0.9), x).train()
    assert quantizer.grid().q_min not in (-8, 0)
    for each in (quantizer, calibrated(CPQ(bits=1, drop=0.9, signed=True), x).train()):
        each(x).square().sum().backward()
        assert torch.isfinite(each.step.grad).all()


def test_what_is_out_of_range_is_refused():
    for settings, message in (
        (dict(temperature=0), 'temperature, in steps, must be above 0 and at most 0.25, got 0'),
        (dict(drop=1), 'drop, the chance of a bit to be left out, must be at least 0 and below 1, got 1'),
    ):
        with pytest.raises(MmacsError, match=message):
            CPQ(**settings)
