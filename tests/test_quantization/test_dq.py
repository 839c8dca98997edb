import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from torch import nn

from mmacs.quantization import calibrate, quantize_model
from mmacs.quantization.mse_clip import mse_clip
from mmacs.quantization.quantizers import LSQ, DQActivation, DQWeight
from mmacs.quantization.quantizers.dq_weight import code_table, fit_basis, margins
from mmacs.utils.errors import MmacsError

SHAPE = (6, 4, 3, 3)
DQ = dict(weight=dict(type='DQWeight'), activation=dict(type='DQActivation'))


def calibrated(quantizer, x):
    quantizer.start_observing()
    quantizer(x)
    quantizer.finish_observing()
    return quantizer


def weight_quantizer(x, bits=3, num_channels=6):
    return calibrated(DQWeight(shape=x.shape, kind='weight', signed=True, bits=bits, num_channels=num_channels), x)


def basis_and_bits(quantizer):
    """v of shape (K, C) and P of shape (K, C, n), in the units of the equations."""
    v = quantizer.basis / quantizer.bit_variables[0].numel() ** 0.5 * quantizer.num_channels**0.5
    rows = quantizer.bit_variables.reshape(*quantizer.basis.shape, -1)
    return v, rows / quantizer.unit[..., None]


# ---------------------------------------------------------------- fitting
@pytest.mark.parametrize('bits', [1, 2, 3, 4, 8])
def test_the_fitted_levels_lie_closer_than_lsqs_initial_ones(bits):
    x = torch.randn(6, 64, 3, 3)
    lsq = calibrated(LSQ(bits=bits, kind='weight', num_channels=6, signed=True, init='mean'), x)
    with torch.no_grad():
        errors = [(quantizer(x) - x).square().sum() for quantizer in (weight_quantizer(x, bits), lsq)]
    assert errors[0] <= errors[1] * (1 + 1e-5 if bits == 1 else 0.6)


@pytest.mark.parametrize('num_channels', [1, 6])
def test_a_weight_that_has_only_such_levels_is_hit(num_channels):
    codes = code_table(3)[torch.randint(8, (num_channels, 600))]
    x = (codes @ torch.tensor([0.4, 0.21, 0.1])).reshape(6, -1)
    torch.testing.assert_close(weight_quantizer(x, 3, num_channels)(x), x, rtol=0, atol=1e-3)


@pytest.mark.parametrize('shape', [(6, 1), (6, 2), SHAPE])
def test_dead_channels_and_few_elements_survive_and_can_learn(shape):
    x = torch.randn(shape)
    x[2] = 0
    quantizer = weight_quantizer(x, bits=4)
    y = quantizer(x)
    assert torch.isfinite(y).all()
    assert (y[2] == 0).all()
    for _ in range(2):
        quantizer(x).square().sum().backward()
        (quantizer(x).sum(tuple(range(1, x.dim()))) - 1).square().sum().backward()
        with torch.no_grad():
            for parameter in quantizer.parameters():
                assert torch.isfinite(parameter.grad).all()
                parameter.sub_(0.01 * parameter.grad)
    assert (quantizer(x)[2] != 0).any()


def test_margins_have_the_signs_of_the_nearest_levels_bits_and_at_most_the_size_of_the_basis():
    x = torch.randn(2, 500)
    basis = fit_basis(x, 3)
    margin = margins(x, basis)
    table = code_table(3)
    levels = basis.T @ table.T
    codes = table[(x[..., None] - levels[:, None]).abs().argmin(2)].permute(2, 0, 1)
    assert torch.equal(margin.sign(), codes)
    assert (margin.abs() <= basis[..., None] * (1 + 1e-5)).all()


def test_of_even_levels_the_least_margin_is_the_way_to_the_border_between_two_of_them():
    x = torch.rand(1, 500) * 14 - 7  # between levels -7, -5, ..., 7
    margin = margins(x, torch.tensor([[4.0], [2.0], [1.0]]))
    torch.testing.assert_close(margin.abs().amin(0), (x - 2 * (x / 2).round()).abs())


# ---------------------------------------------------------------- gradients
@pytest.mark.parametrize('num_channels', [1, 6])
def test_gradients_are_those_of_the_equations(num_channels):
    x = torch.randn(SHAPE)
    quantizer = weight_quantizer(x, 3, num_channels)
    with torch.no_grad():
        quantizer.bit_variables.mul_(1.5)  # so that some |P| > 1
    v, p = (state.detach().requires_grad_() for state in basis_and_bits(quantizer))
    upstream = torch.randn(SHAPE)
    y = quantizer(x)
    y.backward(upstream)

    n, grad = upstream.numel() / num_channels, upstream.reshape(num_channels, -1)
    bits = torch.where(p >= 0, 1.0, -1.0)
    torch.testing.assert_close(y, (v[..., None] * bits).sum(0).reshape(SHAPE))
    grad_v, grad_p = (bits * grad).sum(-1), v[..., None] * grad
    grad_p = torch.where((p.abs() > 1) & (grad_p * p < 0), 0, grad_p)  # a step against it would lead further out
    assert (p.abs() > 1).any()
    assert (grad_p == 0).any()
    torch.testing.assert_close(quantizer.basis.grad * n**0.5, grad_v)
    found = quantizer.bit_variables.grad.reshape(p.shape) * quantizer.unit[..., None]
    torch.testing.assert_close(found, grad_p)


@pytest.mark.parametrize('bits', [1, 2, 4])
def test_a_step_of_sgd_moves_the_weights_about_as_far_as_ordinary_ones(bits):
    x = torch.rand(1, 200000) * 2 - 1
    quantizer = weight_quantizer(x, bits, num_channels=1)
    before = quantizer(x).detach().clone()
    quantizer(x).sum().backward()  # the gradient is 1 for every weight
    rate = 0.05
    with torch.no_grad():
        quantizer.bit_variables.sub_(rate * quantizer.bit_variables.grad)
        moved = (quantizer(x) - before).mean()
    # with few levels, many values lie beyond the outermost: their bits are far from flipping
    assert -1.2 * rate < moved < -0.4 * rate


def test_a_step_of_sgd_on_the_basis_is_no_longer_than_that_of_ordinary_weights():
    x = torch.randn(SHAPE)
    quantizer = weight_quantizer(x)
    before, upstream = quantizer(x).detach().clone(), torch.randn(SHAPE)
    quantizer(x).backward(upstream)
    with torch.no_grad():
        quantizer.basis.sub_(0.1 * quantizer.basis.grad)
        assert 0 < (quantizer(x) - before).norm() < 0.1 * upstream.norm()


# ---------------------------------------------------------------- interface
def test_after_calibration_the_values_of_the_layers_weight_do_not_matter():
    x = torch.randn(SHAPE)
    quantizer = weight_quantizer(x)
    assert torch.equal(quantizer(x), quantizer(torch.zeros(SHAPE)))
    assert len(quantizer(x)[0].unique()) <= 8


def test_what_does_not_fit_is_refused():
    quantizer = weight_quantizer(torch.randn(SHAPE))
    quantizer.name = 'conv.weight_quantizer'
    with pytest.raises(MmacsError, match='conv.weight_quantizer is a DQWeight of 3 bits, each of them trained'):
        quantizer.change_bits(2)
    with pytest.raises(MmacsError, match='conv.weight_quantizer is a DQWeight, whose levels are not evenly spaced'):
        quantizer.grid()
    with pytest.raises(MmacsError, match='leave power_of_two out'):
        DQWeight(shape=SHAPE, kind='weight', power_of_two=True)


def test_a_nan_that_the_optimizer_made_is_found():
    quantizer = weight_quantizer(torch.randn(SHAPE))
    with torch.no_grad():
        quantizer.basis[0, 0] = float('nan')
    with pytest.raises(MmacsError, match='learned NaN or Inf as its basis'):
        quantizer(torch.randn(SHAPE))


# ---------------------------------------------------------------- activations
def relative_error(x, clip, bits, signed):
    """Sum over channels (axis 1) of the error relative to the channel's energy."""
    steps = 2 ** (bits - signed)
    step = clip / steps
    error = (x - step * (x / step).round().clamp(-steps if signed else 0, steps - 1)).square().sum((0, 2, 3))
    return (error / x.square().sum((0, 2, 3))).sum().item()


@pytest.mark.parametrize('bits', [2, 4, 8])
@pytest.mark.parametrize('signed', [True, False])
@pytest.mark.parametrize('spread', [0.5, 2.0])
def test_the_range_minimises_the_sum_of_relative_errors_of_channels(bits, signed, spread):
    x = torch.randn(4, 32, 10, 10) * (spread * torch.randn(32)).exp().view(-1, 1, 1)
    x = x if signed else x.relu()
    clip = calibrated(DQActivation(bits=bits, signed=signed), x).clip
    pooled = mse_clip(x.abs().reshape(1, -1), 2 ** (bits - signed))
    candidates = torch.logspace(-3, 0.2, 150) * x.abs().max()
    least = min(relative_error(x, s, bits, signed) for s in candidates)
    assert relative_error(x, clip, bits, signed) < 1.05 * least
    if spread == 2:
        assert relative_error(x, pooled, bits, signed) > 1.2 * least


def test_a_channel_that_is_nearly_or_wholly_dead_does_not_set_the_range():
    x = torch.randn(4, 32, 10, 10)
    clip = calibrated(DQActivation(), x).clip.clone()
    x[:, 0], x[:, 1], x[:, 2] = 0, 1e-6 * x[:, 1], 1e-25
    torch.testing.assert_close(calibrated(DQActivation(), x).clip, clip, rtol=0.03, atol=0)


def test_channels_of_linear_layers_are_last():
    x = torch.randn(50, 7, 16) * torch.logspace(-1, 1, 16)
    last = calibrated(DQActivation(channel_axis=-1), x).clip
    first = calibrated(DQActivation(channel_axis=1), x.transpose(1, 2)).clip
    torch.testing.assert_close(last, first)
    assert calibrated(DQActivation(channel_axis=1), x).clip > 1.5 * last


def test_the_conversion_tells_the_axis_and_the_shape_and_freezes_the_weight():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(2), nn.Linear(16, 5))
    quantize_model(model, dict(preset='w4a4', **DQ))
    assert model[0].input_quantizer.channel_axis == 1
    assert model[2].input_quantizer.channel_axis == -1
    assert model[2].weight_quantizer.bit_variables.shape[1:] == (5, 16)
    assert not model[2].weight.requires_grad
    assert model[2].bias.requires_grad


# ---------------------------------------------------------------- end to end
def test_a_detector_learns_by_flipping_bits(tiny_retinanet):
    tiny_retinanet.backbone.init_cfg = None
    model = MODELS.build(tiny_retinanet)
    quantize_model(model, dict(preset='w4a4', **DQ))
    packed = demo_mm_inputs(2, [[3, 64, 96]] * 2, num_items=[2, 1], num_classes=3)
    data = model.data_preprocessor(packed, training=True)
    calibrate(model, [data['inputs']], lambda images: model(images, mode='tensor'))
    model.train()
    weights = [module for module in model.modules() if isinstance(module, DQWeight)]
    before = [quantizer.bit_variables.detach() >= 0 for quantizer in weights]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9)
    losses = []
    for _ in range(8):
        loss, _ = model.parse_losses(model.loss(data['inputs'], data['data_samples']))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 35)
        optimizer.step()
        losses.append(loss.item())
    flips = sum(int(((q.bit_variables >= 0) != old).sum()) for q, old in zip(weights, before))
    assert 0 < flips < 0.1 * sum(old.numel() for old in before)
    assert losses[-1] < 0.95 * losses[0]
    assert all(torch.isfinite(parameter).all() for parameter in parameters)
