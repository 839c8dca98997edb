import math

import pytest
import torch

from mmacs.quantization.fake_quant import level_bounds, lsq_initial_step, lsq_quantize


def written_out(x, step, q_min, q_max):
    """LSQ as in the paper's appendix: clip, round with a straight-through gradient, scale the step's gradient."""
    shape = [-1] + [1] * (x.dim() - 1) if step.numel() > 1 else [1]
    count = x.numel() // step.numel()
    g = 1 / math.sqrt(count * q_max)
    s = ((step - step * g).detach() + step * g).reshape(shape)
    v = (x / s).clamp(q_min, q_max)
    return (v + (v.round() - v).detach()) * s


@pytest.mark.parametrize(
    ('bits', 'signed', 'lowest', 'highest'),
    [(4, True, -8, 7), (4, False, 0, 15), (8, True, -128, 127), (1, False, 0, 1)],
)
def test_level_bounds(bits, signed, lowest, highest):
    assert level_bounds(bits, signed) == (lowest, highest)


@pytest.mark.parametrize('bits', [2, 3, 4, 8])
@pytest.mark.parametrize('signed', [True, False])
@pytest.mark.parametrize('channels', [1, 6])
def test_forward_and_gradients_are_those_of_the_equations(bits, signed, channels):
    torch.manual_seed(bits)
    x = torch.randn(6, 5, 3, 3, requires_grad=True)
    step = (torch.rand(channels) * 0.2 + 0.1).requires_grad_()
    q_min, q_max = level_bounds(bits, signed)
    upstream = torch.randn_like(x)

    expected = written_out(x.double(), step.double(), q_min, q_max)
    expected_grads = torch.autograd.grad(expected, (x, step), upstream.double())
    actual = lsq_quantize(x, step, q_min, q_max)
    actual_grads = torch.autograd.grad(actual, (x, step), upstream)

    torch.testing.assert_close(actual, expected.float())
    for got, want in zip(actual_grads, expected_grads):
        torch.testing.assert_close(got, want.float(), rtol=1e-4, atol=1e-5)


def test_values_within_half_a_step_outside_the_range_are_clipped_in_the_gradient():
    # torch's learnable fake-quant op passes a gradient here; the paper's equation does not
    x = torch.tensor([7.3], requires_grad=True)
    step = torch.tensor([1.0], requires_grad=True)
    lsq_quantize(x, step, -8, 7).backward(torch.ones(1))
    assert x.grad.item() == 0
    assert step.grad.item() == pytest.approx(7 / math.sqrt(7))


def test_per_channel_gradient_scale_counts_the_elements_of_one_channel():
    # two well-known implementations count the whole tensor
    x, step = torch.full((8, 100), 100.0), torch.ones(8, requires_grad=True)
    lsq_quantize(x, step, -8, 7).sum().backward()
    torch.testing.assert_close(step.grad, torch.full((8,), 100 * 7 / math.sqrt(100 * 7)))


def test_at_most_2_to_the_b_values_and_idempotent():
    x = torch.randn(1000) * 5
    step = torch.tensor([0.3])
    once = lsq_quantize(x, step, -4, 3)
    assert len(once.unique()) == 8
    torch.testing.assert_close(lsq_quantize(once, step, -4, 3), once)


def test_initial_step_is_the_papers_and_survives_dead_channels():
    mean_abs = torch.tensor([0.5, 0.0, 1.5])
    step = lsq_initial_step(mean_abs, 7)
    assert step[0] == pytest.approx(2 * 0.5 / math.sqrt(7))
    assert step[1] == pytest.approx(((step[0] + step[2]) / 2).item())
    assert lsq_initial_step(torch.zeros(1), 7).item() == 1


@pytest.mark.parametrize('bits', [8, 12, 16])
def test_gradient_of_the_step_does_not_drown_in_a_large_tensor_of_many_bits(bits):
    x = torch.randn(1_000_000)
    upstream = torch.randn_like(x)
    q_min, q_max = level_bounds(bits, True)
    step = torch.tensor([3 / q_max], requires_grad=True)
    exact = step.double().detach().requires_grad_()
    (expected,) = torch.autograd.grad(written_out(x.double(), exact, q_min, q_max), exact, upstream.double())
    (actual,) = torch.autograd.grad(lsq_quantize(x, step, q_min, q_max), step, upstream)
    # x / s itself has float32's rounding, of 2^-24 of a level's number, in each element
    assert (actual - expected).abs().item() < 0.02 * expected.abs().item() + 0.05
