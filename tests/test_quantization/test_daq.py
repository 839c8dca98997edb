import pytest
import torch
from torch import nn

from mmacs.quantization import calibrate, quantize_model
from mmacs.quantization.analysis.statistics import measure
from mmacs.quantization.quantizers import DAQ, LSQ
from mmacs.quantization.quantizers.daq import normal_step
from mmacs.quantization.specification import QuantizerSpecification
from mmacs.utils.errors import MmacsError

from .test_quantizer_family import calibrated


def maps(seed=0, images=4, channels=8):
    return torch.randn(images, channels, 16, 16, generator=torch.Generator().manual_seed(seed))


def unlike(x):
    """Channels and images of very different scale and mean."""
    scales = torch.logspace(-1, 1, x.shape[1]).view(1, -1, 1, 1) * torch.logspace(0, 0.5, len(x)).view(-1, 1, 1, 1)
    return scales * (x + torch.linspace(-2, 2, x.shape[1]).view(1, -1, 1, 1))


def relative_errors(y, x):
    """Squared error over variance, by image and channel."""
    return (y - x).square().mean((2, 3)) / x.var((2, 3))


# The table of Max, 1960, which the authors' code has too; half of a distribution has twice as many levels
@pytest.mark.parametrize(('bits', 'step'), [(1, 1.596), (2, 0.9957), (3, 0.586), (4, 0.3352), (8, 0.0308)])
def test_the_step_is_the_best_for_a_normal_distribution(bits, step):
    assert normal_step(bits, signed=True) == pytest.approx(step, rel=0.01)
    x = torch.randn(100000).abs()
    errors = [
        ((x / each).round().clamp(0, 2**bits - 1) * each - x).square().mean()
        for each in (normal_step(bits, signed=False) * factor for factor in (0.9, 1, 1.1))
    ]
    assert errors[1] == min(errors)


def test_it_is_the_equation_and_its_gradient_passes_inside_the_range():
    x = unlike(maps()).requires_grad_()
    quantizer = calibrated(DAQ(bits=3), x.detach()).train()
    m, d = x.detach().mean((2, 3), keepdim=True), x.detach().std((2, 3), correction=0, keepdim=True)
    s = normal_step(3, signed=True)
    z = (x.detach() - m) / d
    expected = d * s * ((z / s + 3.5).round().clamp(0, 7) - 3.5) + m
    y = quantizer(x)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    upstream = torch.randn(x.shape)
    y.backward(upstream)
    inside = (z.abs() < 4 * s).float()
    torch.testing.assert_close(x.grad, upstream * inside)
    assert 0 < inside.mean() < 1


def test_channels_and_images_that_differ_are_all_quantized_well_without_training():
    x = unlike(maps())
    errors = {kind: relative_errors(calibrated(kind(bits=4), x).eval()(x).detach(), x) for kind in (DAQ, LSQ)}
    assert errors[DAQ].max() < 0.03
    assert errors[LSQ].max() > 0.5
    x[:, :, 0, 0] = 10 * x.std((2, 3))  # outliers, which don't set the range
    y = calibrated(DAQ(bits=4), x).eval()(x)
    assert relative_errors(y[:, :, 1:], x[:, :, 1:]).max() < 0.05


def test_a_channel_that_is_scaled_and_moved_gives_the_same_levels_so():
    x = maps()
    quantizer = calibrated(DAQ(bits=4), x).eval()
    torch.testing.assert_close(quantizer(unlike(x)), unlike(quantizer(x)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('axis', [1, -1])
def test_what_else_is_in_a_batch_changes_nothing(axis):
    x = unlike(maps()) if axis == 1 else maps(images=4).flatten(2).transpose(1, 2) * torch.arange(1.0, 9)
    quantizer = calibrated(DAQ(bits=4, channel_axis=axis), x).eval()
    together = quantizer(x)
    for number in range(len(x)):
        torch.testing.assert_close(quantizer(x[number : number + 1]), together[number : number + 1])


@pytest.mark.parametrize('statistics', ['image', 'calibration'])
def test_rectified_activations_keep_their_zeros(statistics):
    x = unlike(maps()).relu()
    x[:, 2] = 0
    y = calibrated(DAQ(bits=4, statistics=statistics, num_features=8), x).eval()(x)
    assert (y[x == 0] == 0).all() and (y >= 0).all() and torch.isfinite(y).all()
    assert relative_errors(y, x)[:, 4:].median() < 0.05


@pytest.mark.parametrize(('shape', 'axis'), [((6, 40), -1), ((6, 40), 1), ((6, 40, 1, 1), 1), ((2, 3, 40), -1)])
def test_rows_and_maps_of_one_place_have_the_statistics_of_their_channels(shape, axis):
    x = torch.randn(shape)
    quantizer = calibrated(DAQ(bits=2, channel_axis=axis), x).eval()
    y = quantizer(x).movedim(axis, -1).reshape(-1, 40)
    assert all(2 <= len(row.unique()) <= 4 for row in y)
    assert quantizer.alike(quantizer(x)).numel() == 40


def test_calibrated_statistics_are_constants_of_the_layers_channels():
    model = nn.Sequential(nn.Conv2d(8, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 3))
    recipe = dict(preset='w4a4', activation=dict(type='DAQ', statistics='calibration'))
    quantize_model(model, recipe)
    x = unlike(maps())
    calibrate(model, [x[:2], x[2:]])
    quantizer = model[0].input_quantizer
    assert quantizer.mean.shape == (1, 8) and model[3].input_quantizer.mean.shape == (1, 784)
    torch.testing.assert_close(quantizer.mean[0], x.mean((0, 2, 3)), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(quantizer.deviation[0], x.std((0, 2, 3)), rtol=1e-2, atol=1e-3)
    with torch.no_grad():
        y = quantizer(x)
    assert all(len(channel.unique()) <= 256 for channel in y.transpose(0, 1))
    model[0].input_quantizer = calibrated(DAQ(bits=3), x)
    found = next(each for each in measure(model, [x]) if each.type == 'DAQ')
    assert 2 <= found.levels <= 8  # of one channel of one image, since others have others
    assert torch.equal(quantizer(x[:1]), y[:1])
    assert quantizer(1000 * x).abs().max() < 2 * y.abs().max()
    assert QuantizerSpecification.of(quantizer).options == dict(statistics='calibration')
    before = quantizer(x).abs().max()
    quantizer.change_bits(4)
    assert 0.4 * before < quantizer(x).abs().max() < before


def test_what_cannot_be_is_refused():
    for settings, message in (
        (dict(statistics='batch'), "'batch'"),
        (dict(statistics='calibration'), "take statistics='image' for additions, concatenations and outputs"),
        (dict(power_of_two=True), 'leave power_of_two out'),
        (dict(num_channels=4), 'leave per_channel out'),
    ):
        with pytest.raises(MmacsError, match=message):
            DAQ(**settings)
    quantizer = DAQ()
    quantizer.name = 'conv.input_quantizer'
    with pytest.raises(MmacsError, match='conv.input_quantizer is a DAQ, whose levels are those of each channel'):
        quantizer.grid()
    with pytest.raises(MmacsError, match='DAQ quantizes the activation, not the weight'):
        quantize_model(nn.Linear(2, 2), dict(preset='w4a4', weight=dict(type='DAQ')))
