import pytest
import torch
from torch import nn

from mmacs.quantization import calibrate, disabled, quantize_model
from mmacs.quantization.analysis.statistics import Tally, measure, sqnr_db
from mmacs.quantization.quantizers import Grid


def grid_of(step, q_min, q_max, offset=None):
    return Grid(torch.tensor(step), None if offset is None else torch.tensor(offset), q_min, q_max)


def quantized(x, grid):
    step, offset = grid.step.reshape(-1, 1), 0 if grid.offset is None else grid.offset.reshape(-1, 1)
    return ((x - offset) / step).round().clamp(grid.q_min, grid.q_max) * step + offset


@pytest.fixture
def net():
    """Two calibrated layers and one that no forward reaches."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 1))
    model.add_module('spare', nn.Conv2d(2, 2, 1))
    quantize_model(model, dict(preset='w4a4', rules=[dict(name='*', weight=dict(bits=4), activation=dict(bits=4))]))
    calibrate(model, [torch.randn(2, 3, 6, 6)], lambda x: model[:3](x))
    return model


def test_counts_of_a_known_tensor():
    tally, grid = Tally(), grid_of([1.0], -2, 1)
    x = torch.tensor([[-3.0, -2.0, 0.2, 1.0, 1.4]])
    tally.update(x, quantized(x, grid), grid)
    assert (tally.count, tally.clipped, tally.levels) == (5, 2, [3])
    assert tally.noise == pytest.approx(1 + 0.2**2 + 0.4**2)
    assert tally.signal == pytest.approx(9 + 4 + 0.2**2 + 1 + 1.4**2)
    bins = tally.histogram
    assert (bins.low, bins.high, bins.q_min, bins.q_max, sum(bins.counts)) == (-3.5, 2.5, -2, 1, 5)
    width = (bins.high - bins.low) / len(bins.counts)
    assert all(bins.counts[int((value - bins.low) / width)] for value in x[0].tolist())


def test_batches_add_up():
    x, grid = torch.randn(2, 60), grid_of([0.3, 0.5], -4, 3, [0.1, -0.2])
    y = quantized(x, grid)
    whole, parts = Tally(2), Tally(2)
    whole.update(x, y, grid)
    for columns in (slice(0, 7), slice(7, 60)):
        parts.update(x[:, columns], y[:, columns], grid)
    assert (parts.count, parts.clipped, parts.levels) == (whole.count, whole.clipped, whole.levels)
    assert parts.noise == pytest.approx(whole.noise)
    assert whole.levels == [len(row.unique()) for row in y]
    assert parts.histogram == whole.histogram and sum(whole.histogram.counts) == 120
    assert 0 < whole.clipped < whole.count


def test_levels_without_a_grid_are_the_distinct_values_of_each_channel():
    tally = Tally(2)
    y = torch.tensor([[0.1, 0.7, 0.1], [2.0, 2.0, 2.0]])
    tally.update(y + 1, y, None)
    tally.update(y, y + torch.tensor([[0.0], [1.0]]), None)
    assert (tally.levels, tally.clipped) == ([2, 2], 0)


@pytest.mark.parametrize('bits', [2, 4, 8])
def test_six_decibels_per_bit(bits):
    """Of evenly distributed values that fill the range, the ratio is 2^(2 bits)."""
    tally, levels = Tally(), 2**bits
    grid = grid_of([2 / levels], 0, levels - 1, [-1 + 1 / levels])
    x = torch.rand(1, 200_000) * 2 - 1
    tally.update(x, quantized(x, grid), grid)
    assert sqnr_db(tally.signal, tally.noise) == pytest.approx(6.02 * bits, abs=0.1)


def test_measured_is_what_the_layers_compute(net):
    x = [torch.randn(2, 3, 6, 6), torch.randn(1, 3, 6, 6)]
    found = {each.name: each for each in measure(net, x, lambda batch: net[:3](batch))}
    weight, quantized_weight = net[0].weight, net[0].quantized_weight()
    expected = sqnr_db(weight.square().sum().item(), (weight - quantized_weight).square().sum().item())
    assert found['0.weight_quantizer'].sqnr_db == pytest.approx(expected, rel=1e-4)
    assert (found['0.weight_quantizer'].calls, found['0.input_quantizer'].calls) == (1, 2)
    assert (found['0.weight_quantizer'].granularity, found['0.weight_quantizer'].num_ranges) == ('channel', 4)
    steps = net[0].weight_quantizer.grid().step
    assert found['0.weight_quantizer'].step == (steps.min().item(), steps.max().item())
    assert found['2.input_quantizer'].complaint is None
    assert found['spare.input_quantizer'].complaint == 'never called'


def test_quantizers_that_let_nothing_through_are_told(net):
    with torch.no_grad():
        net[0].weight[1] = 0
        net[2].weight_quantizer.step.fill_(1e3)
    found = {each.name: each for each in measure(net, [torch.randn(1, 3, 6, 6)], lambda batch: net[:3](batch))}
    assert found['0.weight_quantizer'].complaint == '1 of 4 channels with a single level in use'
    assert found['2.weight_quantizer'].complaint == 'a single level in use'


class Twice(nn.Module):
    """Applies one layer to the values and then to a constant."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x), self.layer(torch.ones_like(x))


def test_each_pyramid_level_has_its_own_levels():
    rules = [dict(name='*', activation=dict(bits=2, per_level=2, signed=True, init='mean'))]
    model = quantize_model(nn.Sequential(Twice()), dict(rules=rules))
    x = torch.linspace(-1, 1, 256).view(64, 4)
    calibrate(model, [x])
    found = {each.name: each for each in measure(model, [x, x])}['0.layer.input_quantizer']
    assert (found.granularity, found.num_ranges, found.calls) == ('level', 2, 4)
    assert (found.levels, found.dead_ranges) == ((3 + 1) / 2, 1)
    assert found.step == pytest.approx((2 * 0.5, 2 * 1), rel=0.01)
    assert found.complaint == '1 of 2 pyramid levels with a single level in use'


@pytest.mark.parametrize('called', [[0], [0, 1], []])
def test_pyramid_levels_without_a_call_say_nothing(called):
    rules = [dict(name='*', activation=dict(bits=4, per_level=3))]
    model = quantize_model(nn.Sequential(nn.Linear(4, 4)), dict(rules=rules))
    x = torch.randn(64, 4)

    def forward(calls):
        model[0].input_quantizer.calls = 0
        for _ in calls:
            model[0](x)

    calibrate(model, [[0, 1, 2]], forward)
    found = {each.name: each for each in measure(model, [called], forward)}['0.input_quantizer']
    assert (found.calls, found.granularity, found.num_ranges) == (len(called), 'level', len(called) or 3)
    assert found.levels > 8 or not called
    assert found.complaint == (None if called else 'never called')


def test_one_bit_clips_nothing():
    model = quantize_model(nn.Sequential(nn.Linear(4, 4)), dict(rules=[dict(name='*', weight=dict(bits=1))]))
    calibrate(model, [torch.randn(8, 4)])
    found = {each.kind: each for each in measure(model, [torch.randn(8, 4)])}
    assert found['weight'].clipped is None and found['activation'].clipped is not None


def test_measuring_leaves_no_trace(net):
    x = torch.randn(1, 3, 6, 6)
    before = net[:3](x)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    measure(net, [x], lambda batch: net[:3](batch))
    with disabled(net):
        assert all(each.calls == 0 for each in measure(net, [x], lambda batch: net[:3](batch)))
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert torch.equal(net[:3](x), before)
    assert not any(module._forward_hooks for module in net.modules())
