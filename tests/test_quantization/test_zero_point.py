"""Activations with a few negative values: grids with an integer zero point, and what becomes of those without."""

import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu, hardswish, silu

from mmacs.quantization import calibrate, layer_table, quantize_model
from mmacs.quantization.quantizers import LSQ, EMAMinMax, LSQPlus, MinMax, Percentile
from mmacs.utils.errors import MmacsError


def calibrated(quantizer, *batches):
    quantizer.start_observing()
    for x in batches:
        quantizer(x)
    quantizer.finish_observing()
    return quantizer


def noise_db(quantizer, x):
    with torch.no_grad():
        return 10 * math.log10((x.square().mean() / (quantizer.eval()(x) - x).square().mean()).item())


@pytest.mark.parametrize('activation', [silu, gelu, hardswish])
@pytest.mark.parametrize('kind', [LSQ, MinMax, EMAMinMax, Percentile])
def test_most_levels_are_where_most_values_are_and_zero_is_one(activation, kind):
    x = activation(3 * torch.randn(4, 3, 20, 20))
    quantizer = calibrated(kind(bits=8), x).eval()
    grid = quantizer.grid()
    offset = 0 if grid.offset is None else grid.offset
    below = grid.q_min if grid.offset is None else (grid.offset / grid.step).item()
    assert -60 < below < 0
    assert below == pytest.approx(round(below), abs=1e-4)
    assert quantizer(torch.zeros(3)).tolist() == [0, 0, 0]
    assert (grid.step * grid.q_max + offset).item() == pytest.approx(x.max().item(), rel=0.3)
    assert noise_db(quantizer, x) > noise_db(calibrated(kind(bits=8, signed=True), x), x)


def test_levels_are_those_of_eight_bit_integers():
    x = silu(3 * torch.randn(1000))
    quantizer = calibrated(LSQ(bits=8), x)
    zero_point, step = quantizer.zero_point.item(), quantizer.step.item()
    assert quantizer.zero_point.dtype == torch.int32
    stored = ((x / step).round() + zero_point).clamp(0, 255).to(torch.uint8)
    torch.testing.assert_close(quantizer(x).detach(), (stored.float() - zero_point) * step)


def test_gradients_are_lsqs_on_the_moved_grid():
    quantizer = calibrated(LSQ(bits=3), silu(torch.randn(500)))
    q_min, q_max = quantizer.bounds()
    x, upstream = (2 * torch.randn(500)).requires_grad_(), torch.randn(500)
    quantizer(x).backward(upstream)
    v = (x / quantizer.step).detach()
    inside = (v > q_min) & (v < q_max)
    torch.testing.assert_close(x.grad, upstream * inside)
    slope = torch.where(inside, v.round() - v, v.clamp(q_min, q_max))
    expected = (slope * upstream).sum() / math.sqrt(500 * q_max)
    torch.testing.assert_close(quantizer.step.grad, expected.view(1))  # as float32: sums in any order


def test_an_image_keeps_all_its_values():
    image = torch.randint(0, 256, (2, 3, 50, 50)).float().clamp_max(251)
    quantizer = calibrated(LSQ(bits=8), image)
    assert quantizer.step.item() == 1
    assert torch.equal(quantizer(image), image)


def test_normalised_images_have_as_many_levels_below_zero_as_they_need():
    image = (torch.randint(0, 256, (2, 3, 50, 50)).float() - 110) / 58
    assert noise_db(calibrated(LSQ(bits=8), image), image) > 48


def test_a_user_decides_and_the_papers_start_is_symmetric():
    x = silu(torch.randn(1000))
    for quantizer in (LSQ(bits=8, signed=True), LSQ(bits=8, init='mean')):
        assert calibrated(quantizer, x).bounds() == (-128, 127)
    assert calibrated(LSQ(bits=8, kind='weight'), x).bounds() == (-128, 127)
    assert calibrated(LSQ(bits=8, signed=False), x).bounds() == (0, 255)
    assert calibrated(LSQ(bits=8), x.relu()).bounds() == (0, 255)


def test_each_pyramid_level_has_its_zero_point():
    quantizer = LSQ(bits=8, num_levels=3)
    calibrated(quantizer, silu(torch.randn(1000)), torch.rand(1000), silu(10 * torch.randn(1000)))
    assert quantizer.zero_point[0] > quantizer.zero_point[2] > quantizer.zero_point[1] == 0


def test_a_change_of_bits_takes_the_zero_along():
    quantizer = calibrated(LSQ(bits=8), silu(2 * torch.randn(1000)))
    low = quantizer.grid().step * quantizer.grid().q_min
    quantizer.change_bits(6)
    after = quantizer.grid()
    assert after.q_max - after.q_min == 63
    assert abs(low - after.step * after.q_min) <= after.step / 2


@pytest.mark.parametrize(('kind', 'other'), [(LSQ, dict(init='mean')), (MinMax, dict(symmetric=True))])
def test_a_checkpoint_keeps_its_grid_whatever_calibration_would_choose_now(kind, other):
    x = silu(torch.randn(1000))
    trained, quantizer = calibrated(kind(bits=8), x), kind(bits=8, **other)
    quantizer.load_state_dict(trained.state_dict())
    assert torch.equal(quantizer(x), trained(x))


@pytest.mark.parametrize('kind', [LSQ, MinMax])
def test_a_checkpoint_from_before_zero_points_keeps_its_symmetric_grid(kind):
    x = silu(torch.randn(1000))
    old = calibrated(kind(bits=8, signed=True), x)
    state = {key: value for key, value in old.state_dict().items() if key != 'zero_point'}
    quantizer = kind(bits=8)
    quantizer.load_state_dict(state)
    assert torch.equal(quantizer(x), old(x))


def test_a_zero_point_outside_the_levels_is_refused():
    quantizer = calibrated(LSQ(bits=4), silu(torch.randn(1000)))
    for key, value in (('zero_point', 16), ('zero_point', -1), ('signed', 3)):
        state = {**quantizer.state_dict(), key: torch.full_like(quantizer.state_dict()[key], value)}
        with pytest.raises(MmacsError, match='its zero lies outside its levels'):
            LSQ(bits=4).load_state_dict(state)


@pytest.mark.parametrize('bits', [2, 4, 8])
def test_lsq_plus_starts_at_the_least_squared_error(bits):
    x = silu(2 * torch.randn(2000))
    x[0] = 100.0  # one value must not take all levels
    quantizer = calibrated(LSQPlus(bits=bits), x)
    best = max(
        10 * math.log10((x.square().mean() / (rounded(x, low, high, bits) - x).square().mean()).item())
        for high in torch.linspace(1, 40, 40).tolist()
        for low in torch.linspace(-0.3, 0.1, 5).tolist()
    )
    assert noise_db(quantizer, x) > best - 0.3


def rounded(x, low, high, bits):
    step = (high - low) / (2**bits - 1)
    return ((x - low) / step).round().clamp(0, 2**bits - 1) * step + low


def test_negative_values_in_a_range_without_are_warned_of_once():
    quantizer = calibrated(LSQ(bits=8), torch.rand(100))
    quantizer.name = 'neck.conv.input_quantizer'
    x = torch.rand(100) - 0.1
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        quantizer(torch.rand(100))
        quantizer.eval()(x)
        for other in (LSQ(bits=8, signed=False), LSQPlus(bits=8), MinMax(bits=8, symmetric=False)):
            calibrated(other, torch.rand(100))(x)
    with pytest.warns(RuntimeWarning, match='neck.conv.input_quantizer met negative values in training'):
        quantizer.train()(x)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        quantizer(x)


def depthwise_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 3, groups=8), nn.SiLU(), nn.Conv2d(8, 4, 1))


def test_depthwise_convolutions_can_have_a_range_per_channel():
    model = quantize_model(depthwise_model(), dict(preset='w8a8', activation=dict(per_channel=True)))
    with torch.no_grad():
        model[0].weight[:4] *= 1000
    x = torch.rand(2, 3, 12, 12)
    calibrate(model, [x])
    inputs = [model[index].input_quantizer for index in (0, 2, 4)]
    assert [quantizer.num_ranges for quantizer in inputs] == [1, 8, 1]
    hidden = model[1](model[0](x)).detach().requires_grad_()
    step = inputs[1].step.detach().view(8, 1, 1)
    expected = (hidden / step).round().clamp(-128, 127) * step
    weight = model[2].quantized_weight().detach()
    y = model[2](hidden)
    torch.testing.assert_close(y, nn.functional.conv2d(expected, weight, model[2].bias, groups=8))
    y.sum().backward()
    inside = (hidden / step).abs() < 127
    expected_grad = torch.nn.grad.conv2d_input(hidden.shape, weight, torch.ones_like(y), groups=8)
    torch.testing.assert_close(hidden.grad[inside], expected_grad[inside])
    assert 'signed per channel' in layer_table(model).splitlines()[2].split('LSQ')[2]


def test_a_channel_that_is_silent_in_most_batches_keeps_its_range():
    batches = [torch.rand(2, 1000) * torch.tensor([1.0, active])[:, None] for active in (0, 0, 1, 0)]
    quantizer = calibrated(LSQ(bits=8, num_channels=2), *batches)
    assert (quantizer.step * 255 > 0.9).all()


def test_operands_have_no_range_per_channel():
    with pytest.raises(MmacsError, match='additions have no per_channel'):
        quantize_model(depthwise_model(), dict(preset='w8a8', additions=dict(per_channel=True)))


def test_values_that_are_all_negative_have_zero_at_the_upper_end():
    x = (-torch.rand(1000) - 0.5).requires_grad_()
    quantizer = calibrated(LSQ(bits=8), x.detach())
    assert quantizer.bounds() == (-255, 0)
    quantizer(x).sum().backward()
    assert x.grad.sum() > 900
    assert quantizer.step.grad.isfinite()
    assert noise_db(quantizer, x.detach()) > 45
