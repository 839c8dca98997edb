import pytest
import torch
from torch import nn

from mmacs.quantization import calibrate, quantize_model
from mmacs.quantization.mse_range import lost_share, offset_range, zero_based_range


def quantized(x, step, zero_point, bits):
    return ((x / step).round().clamp(-zero_point, 2**bits - 1 - zero_point)) * step


@pytest.mark.parametrize('bits', [2, 3, 4, 8])
@pytest.mark.parametrize(
    'values', [torch.randn, lambda n: torch.randn(n).relu(), lambda n: nn.functional.silu(torch.randn(n))]
)
def test_near_the_best_of_all_ranges(bits, values):
    x = values(4000)[None]
    step, zero_point = zero_based_range(x, bits, symmetric=False)
    least = min(
        (quantized(x, (high - low) / (2**bits - 1), round(-low / ((high - low) / (2**bits - 1))), bits) - x)
        .square()
        .mean()
        .item()
        for high in torch.linspace(0.2, 5, 25).tolist()
        for low in torch.linspace(-5 * (x.min() < -1).item(), 0, 12).tolist()
    )
    assert (quantized(x, step, zero_point, bits) - x).square().mean().item() < 1.1 * least


def test_small_channels_count_as_much_as_large_ones():
    x = torch.randn(8, 1000) * torch.tensor([0.1] * 7 + [10.0])[:, None]
    x[7, 0] = 100
    step, _ = zero_based_range(x, 8, symmetric=True)
    together, _ = zero_based_range(x.reshape(1, -1), 8, symmetric=True)
    assert step < together / 2
    assert lost_share(x, quantized(x, step, 128, 8)) < lost_share(x, quantized(x, together, 128, 8))


def test_a_lost_channel_costs_at_most_itself():
    x = torch.randn(2, 1000)
    assert lost_share(x, torch.stack([x[0], 1e6 * x[1]])).item() == pytest.approx(0.5, abs=1e-3)
    assert lost_share(x, x).item() == 0


def test_all_zero_and_constant_values_give_finite_ranges():
    for x in (torch.zeros(3, 10), torch.full((3, 10), 2.0), torch.full((3, 10), -2.0)):
        step, zero_point = zero_based_range(x, 8, symmetric=False)
        assert step.isfinite().all()
        assert 0 <= zero_point <= 255
        step, offset = offset_range(x, 8)
        assert step.isfinite().all()
        assert offset.isfinite().all()


def test_calibration_looks_at_what_the_layer_makes_of_its_input():
    # a channel that no output reads must not take the levels from those that are read
    model = nn.Sequential(nn.Conv2d(2, 4, 1, bias=False))
    with torch.no_grad():
        model[0].weight[:, 1] = 0
    quantize_model(model, 'w8a8')
    x = torch.randn(4, 2, 10, 10)
    x[:, 1] *= 1000
    calibrate(model, [x])
    assert model[0].input_quantizer.grid().step.item() < 0.1
    expected = nn.functional.conv2d(x, model[0].weight)
    assert (model(x) - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize(
    'layer', [nn.Linear(6, 4), nn.Conv2d(6, 4, 3, groups=2), nn.ConvTranspose2d(6, 4, 3, groups=2)]
)
def test_weights_of_outputs_per_input_follow_groups(layer):
    from mmacs.quantization.output_error import OutputError

    model = quantize_model(nn.Sequential(layer), 'w8a8')
    watched = OutputError(layer)
    x = torch.randn(50, 6) if isinstance(layer, nn.Linear) else torch.randn(4, 6, 8, 8)
    calibrate(model, [x])
    per_input = watched.per_input()
    assert per_input.shape == (4, 6)
    assert ((per_input == 0).sum() == (12 if getattr(layer, 'groups', 1) == 2 else 0)).item()
    if isinstance(layer, nn.Linear):
        expected = layer.weight.square() / layer(x).var(0, correction=0)[:, None]
        torch.testing.assert_close(per_input, expected.detach(), rtol=0.05, atol=1e-3)
