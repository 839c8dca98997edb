import pytest
import torch

from mmacs.quantization.mse_clip import channel_sample, mse_clip
from mmacs.quantization.quantizers import OCTAV
from mmacs.utils.errors import MmacsError

DRAW = {
    'normal': torch.randn,
    'half-normal': lambda n: torch.randn(n).abs(),
    'rectified': lambda n: torch.randn(n).relu(),
    'Laplace': lambda n: torch.distributions.Laplace(0.0, 1.0).sample((n,)),
}


def squared_error(x, clip, bits, signed):
    steps = 2 ** (bits - signed)
    step = clip / steps
    return (x - step * (x / step).round().clamp(-steps if signed else 0, steps - 1)).square().mean().item()


@pytest.mark.parametrize('name', DRAW)
@pytest.mark.parametrize(('bits', 'excess'), [(2, 1.16), (3, 1.09), (4, 1.05), (8, 1.04)])
@pytest.mark.parametrize('count', [8000, 20000])
def test_the_fixed_point_is_near_the_least_squared_error(name, bits, excess, count):
    x = DRAW[name](count)
    signed = bool((x < 0).any())
    clip = mse_clip(x.abs()[None], 2 ** (bits - signed))
    least = min(squared_error(x, s, bits, signed) for s in torch.linspace(0.02, 1, 100) * 1.5 * x.abs().max())
    assert squared_error(x, clip, bits, signed) < excess * least


def test_the_clip_is_a_fixed_point_of_the_equation():
    x = torch.randn(1, 5000).abs()
    s, k = mse_clip(x, 8).item(), 4**-4 / 3
    inside = ((x <= s) & (x > k**0.5 * s)).float().mean()
    outside = (x > s).float()
    assert s == pytest.approx(((x * outside).mean() / (k * inside + outside.mean())).item(), rel=1e-4)


def test_the_clip_scales_with_the_values_and_rows_do_not_touch_each_other():
    x = torch.randn(3, 1000).abs()
    together = mse_clip(x * torch.tensor([[1.0], [100.0], [1e-3]]), 8)
    alone = torch.cat([mse_clip(row[None], 8) for row in x])
    torch.testing.assert_close(together, alone * torch.tensor([1.0, 100.0, 1e-3]))


def test_zeros_and_constants_have_a_clip_too():
    x = torch.zeros(3, 50)
    x[1] = 0.7
    x[2, 3] = 5
    torch.testing.assert_close(mse_clip(x, 8), torch.tensor([0.0, 0.7, 5.0]), rtol=0.2, atol=0)


def test_zeros_do_not_move_the_clip():
    x = torch.randn(1, 1000).abs()
    torch.testing.assert_close(mse_clip(torch.cat([x, torch.zeros(1, 5000)], 1), 8), mse_clip(x, 8))


@pytest.mark.parametrize(('bits', 'clip_error', 'excess'), [(2, 0.03, 1.01), (4, 0.03, 1.01)])
def test_a_sample_of_the_elements_is_enough(bits, clip_error, excess):
    x = torch.randn(4, 64, 75, 75)
    steps = 2 ** (bits - 1)
    full, sampled = mse_clip(x.abs().reshape(1, -1), steps), mse_clip(channel_sample(x).abs(), steps)
    assert sampled.item() == pytest.approx(full.item(), rel=clip_error)
    assert squared_error(x, sampled, bits, True) < excess * squared_error(x, full, bits, True)


@pytest.mark.parametrize('shape', [(2, 16, 75, 80), (2, 16, 64, 64), (40000, 16), (300, 50, 16), (5, 16)])
def test_the_sample_is_small_and_comes_from_all_rows_columns_and_channels(shape):
    axis = shape.index(16) if len(shape) == 4 else -1
    for position in range(len(shape)):
        view = [1] * len(shape)
        view[position] = -1
        index = torch.arange(float(shape[position])).view(view).expand(shape)
        rows = channel_sample(index, axis)
        assert rows.shape[0] == 16
        assert rows.numel() <= 2**16
        seen = len(rows.unique())
        assert seen >= min(shape[position], 64)
        if position == axis % len(shape):
            assert torch.equal(rows[:, 0], torch.arange(16.0))
        pooled = channel_sample(index).unique()
        assert len(pooled) >= min(shape[position], 64)


def calibrated(x, **kwargs):
    quantizer = OCTAV(**kwargs)
    quantizer.start_observing()
    quantizer(x)
    quantizer.finish_observing()
    return quantizer


def gradient(quantizer, x):
    x = x.clone().requires_grad_()
    weights = torch.randn_like(x)
    (quantizer(x) * weights).sum().backward()
    return x.grad / weights


@pytest.mark.parametrize('bits', [1, 4])
def test_the_gradient_of_weights_fades_outside_the_clip_of_their_channel(bits):
    x = torch.randn(5, 3, 3, 3) * torch.arange(1.0, 6).view(-1, 1, 1, 1)
    quantizer = calibrated(x, kind='weight', bits=bits, num_channels=5, signed=True)
    clip = quantizer.clip.view(-1, 1, 1, 1)
    assert (x.abs() > clip).any()
    torch.testing.assert_close(gradient(quantizer, x), torch.where(x.abs() > clip, clip / x.abs(), 1.0))


@pytest.mark.parametrize('bits', [1, 4])
@pytest.mark.parametrize('signed', [True, False])
def test_the_gradient_of_activations_is_zero_outside_the_clip(bits, signed):
    x = torch.randn(1000)
    quantizer = calibrated(x, bits=bits, signed=signed).eval()
    inside = (x.abs() <= quantizer.clip) & (signed | (x >= 0))
    assert not inside.all()
    torch.testing.assert_close(gradient(quantizer, x), inside.float())


def test_nothing_is_learned():
    assert not list(OCTAV().parameters())


def test_one_bit_of_both_signs_is_plus_and_minus_half_a_step():
    x = torch.randn(1000)
    quantizer = calibrated(x, bits=1).eval()
    torch.testing.assert_close(quantizer(x), x.sign() * quantizer.clip / 2)


def test_weights_take_their_clip_from_the_weight_of_each_training_forward():
    x = torch.randn(4, 100)
    quantizer = calibrated(x, kind='weight', num_channels=4, signed=True)
    quantizer(3 * x)
    torch.testing.assert_close(quantizer.clip, mse_clip(3 * x.abs(), 8))
    quantizer(x * 0)
    torch.testing.assert_close(quantizer.clip, mse_clip(3 * x.abs(), 8))  # a dead channel keeps its range


def test_activations_follow_batches_by_moving_average():
    first, second = torch.rand(1000), 5 * torch.rand(1000)
    quantizer = calibrated(first, momentum=0.25)
    quantizer(second)
    clips = [mse_clip(channel_sample(x), 16) for x in (first, second)]
    torch.testing.assert_close(quantizer.clip, 0.75 * clips[0] + 0.25 * clips[1])


@pytest.mark.parametrize('kind', ['weight', 'activation'])
def test_evaluating_changes_no_state_and_uses_the_grid_as_told(kind):
    quantizer = calibrated(torch.randn(4, 100), kind=kind).eval()
    before = {key: value.clone() for key, value in quantizer.state_dict().items()}
    step, _, q_min, q_max = quantizer.grid()
    x = 9 * torch.randn(4, 100)
    torch.testing.assert_close(quantizer(x), step * (x / step).round().clamp(q_min, q_max))
    assert all(torch.equal(value, before[key]) for key, value in quantizer.state_dict().items())


def test_only_the_level_that_is_called_moves():
    quantizer = OCTAV(num_levels=2)
    quantizer.start_observing()
    for scale in (1, 10):
        quantizer(scale * torch.rand(100))
    quantizer.finish_observing()
    before = quantizer.clip.clone()
    quantizer.calls = 1
    quantizer(50 * torch.rand(100))
    assert quantizer.clip[0] == before[0]
    assert quantizer.clip[1] > before[1]


@pytest.mark.parametrize('momentum', [0, 1.5])
def test_momentum_out_of_range(momentum):
    with pytest.raises(MmacsError, match='must be above 0 and at most 1'):
        OCTAV(momentum=momentum)
