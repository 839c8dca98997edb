"""Integers of weights and activations, BatchNorm in them, and biases."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mmacs.deploy.integers import (
    LARGEST_BIAS,
    activation_grid,
    batch_norm_factor,
    codes,
    integer_weight,
    rounded_bias,
    scaled_by_channel,
    with_finer_scale,
    without_silent_channels,
)
from mmacs.quantization.quantizers import LSQ, TQT, DoReFa, Grid, LSQPlus, MinMax
from mmacs.utils.errors import MmacsError


def calibrated(quantizer, x):
    quantizer.name = 'layer.quantizer'
    quantizer.start_observing()
    quantizer(x)
    quantizer.finish_observing()
    return quantizer.eval()


def value(weight):
    return codes(weight) * weight.scale.view(-1, *[1] * (weight.levels.dim() - 1))


@pytest.mark.parametrize(
    ('kind', 'settings'),
    [
        (LSQ, {'bits': 4}),
        (LSQ, {'bits': 8}),
        (LSQ, {'bits': 1}),
        (LSQ, {'bits': 3, 'power_of_two': True}),
        (LSQ, {'bits': 4, 'num_channels': 1}),
        (TQT, {'bits': 2}),
        (DoReFa, {'bits': 4}),
        (DoReFa, {'bits': 1}),
        (MinMax, {'bits': 4}),
        (MinMax, {'bits': 4, 'symmetric': False}),
    ],
)
def test_a_weight_is_its_integers_times_its_scale(kind, settings):
    quantizer = kind(kind='weight', **{'num_channels': 6, 'signed': True, **settings})
    x = torch.randn(6, 5, 3, 3) + 0.2
    expected = calibrated(quantizer, x)(x)
    weight = integer_weight(expected, quantizer.grid(), 'layer.quantizer')
    assert weight.bits == settings['bits']
    assert weight.levels.int().max() - weight.levels.int().min() < 2 ** settings['bits']
    assert_close(value(weight), expected, rtol=1e-6, atol=1e-7)


def test_levels_that_need_nine_bits_are_refused():
    x = torch.randn(6, 50)
    quantizer = calibrated(DoReFa(kind='weight', bits=8, num_channels=6), x)
    with pytest.raises(MmacsError, match='layer.quantizer has levels -255 to 255, which 8-bit integers do not hold'):
        integer_weight(quantizer(x), quantizer.grid(), 'layer.quantizer')


@pytest.mark.parametrize('bits', [4, 8])
def test_a_negative_factor_is_exact(bits):
    levels = torch.tensor([[-(2.0 ** (bits - 1)), 3.0], [-(2.0 ** (bits - 1)), -2.0], [1.0, 2.0]])
    grid = Grid(torch.tensor([0.1, 0.2, 0.3]), None, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    weight = integer_weight(levels * grid.step[:, None], grid, 'layer.quantizer')
    factor = torch.tensor([2.0, -0.5, -3.0])
    scaled = scaled_by_channel(weight, factor)
    assert_close(value(scaled), value(weight) * factor[:, None])
    assert scaled.levels is weight.levels
    lowest, highest = codes(scaled).aminmax()
    assert lowest >= -128 and highest <= 127
    # -128 has no opposite in 8 bits: there the scale is negative
    assert (scaled.scale > 0).tolist() == [True, bits == 4, True]
    assert (scaled_by_channel(weight, factor, positive=True) is None) == (bits == 8)


def test_batch_norm_as_a_factor_and_a_constant():
    norm = nn.BatchNorm2d(4).eval()
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean):
        tensor.normal_()
    norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 4, 3, 3)
    factor, constant = batch_norm_factor(norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
    assert_close(x * factor.view(-1, 1, 1) + constant.view(-1, 1, 1), norm(x))
    plain = nn.BatchNorm2d(4, affine=False).eval()
    factor, constant = batch_norm_factor(plain.running_mean, plain.running_var, plain.eps, None, None)
    assert_close(x * factor.view(-1, 1, 1) + constant.view(-1, 1, 1), plain(x))


def test_a_bias_lies_on_the_grid_of_the_sums():
    bias, scale, step = torch.randn(100), torch.rand(100) * 0.01 + 0.001, torch.tensor(0.03)
    rounded = rounded_bias(bias, scale * torch.randn(100).sign(), step)
    units = rounded / (scale * step)
    assert_close(units, units.round(), rtol=0, atol=2e-3)
    assert ((rounded - bias).abs() <= scale * step * 0.501).all()


def test_channels_that_are_nothing_beside_their_bias_are_zero():
    grid = Grid(torch.tensor([0.1, 1e-30, 0.1, 0.0]), None, -8, 7)
    weight = integer_weight(torch.tensor([[0.2], [3e-30], [0.0], [0.0]]), grid._replace(step=grid.step + 1e-37), 'w')
    weight = weight._replace(scale=grid.step)
    bias = torch.tensor([1.0, 1.0, 0.0, 0.0])
    found = without_silent_channels(weight, bias, torch.tensor([0.5, 0.25]))
    assert codes(found).flatten().tolist() == [2, 0, 0, 0]
    assert (found.scale > 0).all()
    assert found.scale[0] == weight.scale[0]
    assert (bias / (found.scale * 0.25) <= LARGEST_BIAS * 1.001).all()


@pytest.mark.parametrize(
    ('quantizer', 'x'),
    [
        (LSQ(bits=4), torch.rand(1000)),
        (LSQ(bits=4, signed=True), torch.randn(1000)),
        (LSQ(bits=4), torch.randn(1000) + 1),
        (MinMax(bits=8), torch.randn(1000) + 1),
        (LSQ(bits=1), torch.rand(1000)),
    ],
)
def test_an_activation_counts_from_zero(quantizer, x):
    calibrated(quantizer, x)
    grid = activation_grid(quantizer.grid(), 'layer.quantizer')
    x = x[((x / grid.step) % 1 - 0.5).abs() > 1e-4]  # halfway between levels, float32 decides
    expected = quantizer(x)
    assert grid.low <= 0 <= grid.high == grid.low + 2**quantizer.bits - 1
    assert_close((x / grid.step).round().clamp(grid.low, grid.high) * grid.step, expected)


def test_an_offset_between_levels_is_refused_or_rounded():
    quantizer = calibrated(LSQPlus(bits=4), torch.randn(1000) + 1)
    quantizer.offset.data.copy_(quantizer.step * -3.4)
    with pytest.raises(MmacsError, match=r'layer.quantizer has an offset of -3.400 steps.*round_offsets'):
        activation_grid(quantizer.grid(), 'layer.quantizer')
    grid = activation_grid(quantizer.grid(), 'layer.quantizer', round_offsets=True)
    assert (grid.low, grid.high) == (-3, 12)
    quantizer.offset.data.copy_(quantizer.step * -3)
    assert activation_grid(quantizer.grid(), 'layer.quantizer')[1:] == (-3, 12)
    quantizer.offset.data.copy_(quantizer.step * 300)
    with pytest.raises(MmacsError, match='layer.quantizer has levels 300 to 315'):
        activation_grid(quantizer.grid(), 'layer.quantizer')


@pytest.mark.parametrize('round_offsets', [False, True])
def test_two_levels_without_a_zero_are_refused(round_offsets):
    quantizer = calibrated(LSQ(bits=1, signed=True), torch.randn(1000))
    with pytest.raises(MmacsError, match='layer.quantizer has the two levels -step/2 and step/2.*use 2 bits'):
        activation_grid(quantizer.grid(), 'layer.quantizer', round_offsets)


@pytest.mark.parametrize('bits', [1, 2, 4])
def test_larger_integers_are_the_same_weight_with_a_finer_bias(bits):
    quantizer, x = LSQ(kind='weight', bits=bits, num_channels=6, signed=True), torch.randn(6, 5, 3, 3)
    weight = integer_weight(calibrated(quantizer, x)(x), quantizer.grid(), 'layer.quantizer')
    finer = with_finer_scale(weight)
    assert torch.equal(value(finer), value(weight)) and torch.equal(finer.levels, weight.levels)
    assert 32 < codes(finer).abs().max() <= 64 and bool((finer.scale * 4 < weight.scale).all())
    assert with_finer_scale(weight._replace(bits=5)).scale is weight.scale
