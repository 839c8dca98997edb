"""Forward and gradients of each learned quantizer against its equations, written out."""

import math

import pytest
import torch

from mmacs.quantization.fake_quant import power_of_two_step, trained_power_of_two
from mmacs.quantization.quantizers import LSQ, PACT, TQT, DoReFa, EMAMinMax, LSQPlus, MinMax, Percentile


def set_range(quantizer, signed=True, **state):
    for name, value in state.items():
        getattr(quantizer, name).data.copy_(torch.as_tensor(value))
    quantizer.signed.fill_(int(signed))
    quantizer.initialized.fill_(1)
    return quantizer


def straight_through(rounded, x):
    return x + (rounded - x).detach()


def agree(quantizer, expected, x, parameters, upstream):
    actual = quantizer(x)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)
    got = torch.autograd.grad(actual, (x, *parameters), upstream)
    want = torch.autograd.grad(expected, (x, *parameters), upstream)
    for got_one, want_one in zip(got, want):
        torch.testing.assert_close(got_one, want_one, rtol=1e-3, atol=1e-4)


@pytest.fixture
def x():
    return (2 * torch.randn(6, 5, 3, 3)).requires_grad_()


@pytest.fixture
def upstream():
    return torch.randn(6, 5, 3, 3)


@pytest.mark.parametrize('channels', [1, 6])
def test_lsq_plus_learns_step_and_offset(x, upstream, channels):
    step, offset = torch.rand(channels) * 0.2 + 0.1, torch.randn(channels)
    quantizer = set_range(LSQPlus(bits=3, num_channels=channels), step=step, offset=offset)
    g = 1 / math.sqrt(x.numel() / channels * 7)
    s, beta = (p.reshape(-1, 1, 1, 1) for p in (quantizer.step, quantizer.offset))
    s, beta = s * g + (s - s * g).detach(), beta * g + (beta - beta * g).detach()
    v = ((x - beta) / s).clamp(0, 7)
    agree(quantizer, straight_through(v.round(), v) * s + beta, x, (quantizer.step, quantizer.offset), upstream)


def test_the_offset_has_gradient_1_outside_the_range_and_0_inside():
    quantizer = set_range(LSQPlus(bits=2), step=1.0, offset=0.0)
    for value, expected in ((-2.0, 1), (1.3, 0), (9.0, 1)):
        quantizer.zero_grad()
        quantizer(torch.tensor([value])).sum().backward()
        assert quantizer.offset.grad.item() * math.sqrt(3) == pytest.approx(expected)


@pytest.mark.parametrize('signed', [True, False])
def test_tqt_trains_the_threshold(x, upstream, signed):
    # two public toolkits return no gradient for it
    log2_t = torch.tensor([0.7])
    quantizer = set_range(TQT(bits=4), signed, log2_threshold=log2_t)
    q_min, q_max = (-8, 7) if signed else (0, 15)
    log2_ceil = straight_through(quantizer.log2_threshold.ceil(), quantizer.log2_threshold)
    s = torch.exp2(log2_ceil) / (8 if signed else 16)
    v = (x / s).clamp(q_min, q_max)
    agree(quantizer, straight_through(v.round(), v) * s, x, (quantizer.log2_threshold,), upstream)
    assert quantizer.grid().step.item() == (0.25 if signed else 0.125)


@pytest.mark.parametrize('signed', [True, False])
def test_pact_learns_its_clip_from_clipped_values_alone(x, upstream, signed):
    quantizer = set_range(PACT(bits=4), signed, clip=1.5)
    q_min, q_max = (-8, 7) if signed else (0, 15)
    alpha = quantizer.clip
    clipped = torch.maximum(torch.minimum(x, alpha), alpha * q_min / q_max)
    expected = straight_through((clipped * q_max / 1.5).round() * 1.5 / q_max, clipped)
    agree(quantizer, expected, x, (alpha,), upstream)


def test_dorefa_weights_are_the_papers(x, upstream):
    quantizer = set_range(DoReFa(bits=3, kind='weight', rescale=False), unit=1.0)
    t = x.tanh() / (2 * x.tanh().abs().max()) + 0.5
    agree(quantizer, 2 * straight_through((t * 7).round() / 7, t) - 1, x, (), upstream)


def test_dorefa_one_bit_is_the_sign_times_the_mean_magnitude(x):
    quantizer = set_range(DoReFa(bits=1, kind='weight'), unit=1.0)
    torch.testing.assert_close(quantizer(x), x.sign() * x.abs().mean())


def test_dorefa_activations_are_the_papers_and_rescaling_keeps_magnitudes(x, upstream):
    quantizer = set_range(DoReFa(bits=3, rescale=False), signed=False, unit=1.0)
    clipped = x.clamp(0, 1)
    agree(quantizer, straight_through((clipped * 7).round() / 7, clipped), x, (), upstream)
    rescaled = DoReFa(bits=8, kind='weight')
    w = 0.01 * torch.randn(100)
    assert rescaled.train()(w).abs().mean() == pytest.approx(w.abs().mean().item(), rel=0.02)


def test_ranges_follow_training_batches_and_rest_in_eval_mode():
    minmax, ema = MinMax(), EMAMinMax(momentum=0.5)
    for quantizer in (minmax, ema):
        quantizer(torch.tensor([-1.0, 2.0]))
        quantizer(torch.tensor([-3.0, 1.0]))
    assert (minmax.low.item(), minmax.high.item()) == (-3, 2)
    assert (ema.low.item(), ema.high.item()) == (-2, 1.5)
    ema.eval()(torch.tensor([-100.0, 100.0]))
    assert (ema.low.item(), ema.high.item()) == (-2, 1.5)


def test_ranges_of_weights_are_not_averaged():
    quantizer = EMAMinMax(kind='weight', num_channels=2)
    quantizer(torch.tensor([[-1.0, 7.0], [-16.0, 0.0]]))
    torch.testing.assert_close(quantizer.grid().step, torch.tensor([1.0, 2.0]))
    quantizer(torch.tensor([[-1.0, 3.5], [-8.0, 0.0]]))
    torch.testing.assert_close(quantizer.grid().step, torch.tensor([0.5, 1.0]))


@pytest.mark.parametrize('quantizer', [MinMax, EMAMinMax, Percentile])
def test_an_asymmetric_range_has_zero_as_a_level_and_covers_its_ends(quantizer):
    quantizer = quantizer(symmetric=False)
    x = torch.rand(1000) * 5 - 1
    y = quantizer(x)
    step, offset, _, q_max = quantizer.grid()
    assert (offset / step).item() == pytest.approx(round((offset / step).item()))
    assert abs(y.min() - x.min()) < step
    assert abs(y.max() - x.max()) < step
    assert quantizer(torch.zeros(3)).abs().max() == 0


def test_percentiles_leave_outliers_out():
    quantizer = Percentile(percentile=99)
    quantizer(torch.cat([torch.rand(10000), torch.tensor([1e6])]))
    assert quantizer.high.item() == pytest.approx(0.99, abs=0.01)


def test_powers_of_two_are_exact_and_pass_gradients_in_the_log_domain():
    step = torch.logspace(-12, 12, 500, requires_grad=True)
    rounded = power_of_two_step(step)
    mantissa, _ = torch.frexp(rounded)
    assert (mantissa == 0.5).all()
    rounded.sum().backward()
    torch.testing.assert_close(step.grad, rounded.detach() / step.detach())
    exact = trained_power_of_two(torch.arange(-40.0, 40.0))
    assert (torch.frexp(exact)[0] == 0.5).all()


@pytest.mark.parametrize('kind', ['weight', 'activation'])
@pytest.mark.parametrize('bits', [2, 4, 8])
@pytest.mark.parametrize('signed', [True, False])
def test_lsq_starts_at_the_papers_step_or_at_that_of_least_squared_error(kind, bits, signed):
    x = torch.randn(10000) if signed else torch.randn(10000).relu()

    def start(init):
        quantizer = LSQ(bits=bits, kind=kind, init=init)
        y = quantizer(x)
        return quantizer.step.item(), (y - x).square().mean().item()

    step, _ = start('mean')
    assert step == pytest.approx(2 * x.abs().mean().item() / math.sqrt(quantizer_max(bits, signed)), rel=1e-5)
    _, least = start('mse')
    best = min(error_of(x, bits, signed, clip) for clip in torch.linspace(0.3, 6, 200).tolist())
    assert least < 1.25 * best


def quantizer_max(bits, signed):
    return 2 ** (bits - signed) - 1


def error_of(x, bits, signed, clip):
    q_max = quantizer_max(bits, signed)
    step = clip / (q_max + 1)
    return ((x / step).round().clamp(-q_max - 1 if signed else 0, q_max) * step - x).square().mean().item()


@pytest.mark.parametrize('channels', [1, 6])
def test_lsq_with_one_bit_of_both_signs_has_the_gradient_of_a_learned_scale(x, upstream, channels):
    # levels -s/2 and s/2; the offset that makes them must not weigh more than the step itself
    quantizer = set_range(LSQ(bits=1, num_channels=channels), step=torch.rand(channels) + 0.5)
    g = 1 / math.sqrt(x.numel() / channels)
    s = quantizer.step.reshape(-1, 1, 1, 1)
    s = s * g + (s - s * g).detach()
    v = (x / s + 0.5).clamp(0, 1)
    agree(quantizer, (straight_through(v.round(), v) - 0.5) * s, x, (quantizer.step,), upstream)


@pytest.mark.parametrize('rescale', [True, False])
def test_dorefa_one_bit_is_right_from_calibration_on_and_passes_all_gradients(rescale):
    x = (0.1 * torch.randn(1000)).requires_grad_()
    quantizer = DoReFa(bits=1, kind='weight', rescale=rescale)
    quantizer.start_observing()
    quantizer(x)
    quantizer.finish_observing()
    y = quantizer.eval()(x)
    torch.testing.assert_close(y, x.sign() * x.abs().mean())
    upstream = torch.randn(1000)
    y.backward(upstream)
    assert torch.equal(x.grad, upstream)
