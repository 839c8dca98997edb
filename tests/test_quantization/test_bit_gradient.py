"""Gradients of bits against autograd, and the bits that follow from them."""

import math

import pytest
import torch

from mmacs.quantization.analysis.bit_widths import choose
from mmacs.quantization.bit_gradient import (
    averaged,
    bit_gradients,
    checked_sum,
    losses_of_bits,
    normalised,
    range_gradient,
)


def test_the_gradient_of_each_bit_is_autograds():
    step, bits = torch.tensor([0.5, 0.25]), 4
    codes = torch.randint(-8, 8, (2, 3, 2))
    two = (codes[..., None] % 16).bitwise_right_shift(torch.arange(4)).bitwise_and(1).float().requires_grad_()
    worth = torch.tensor([1.0, 2.0, 4.0, -8.0])
    weight = (two * worth).sum(-1) * step[:, None, None]
    torch.testing.assert_close(weight, codes * step[:, None, None])
    weight.retain_grad()
    (weight**3).sum().backward()
    expected = two.grad.abs().flatten(0, -2).sum(0)
    torch.testing.assert_close(bit_gradients(weight.grad, step, bits), expected)
    torch.testing.assert_close(range_gradient(weight.grad, step, bits), 2 * expected[-1])


def test_the_sensitivity_of_a_layer_does_not_depend_on_its_bits():
    gradient = torch.randn(4, 3)
    # the same range, in 16 levels and in 4
    torch.testing.assert_close(
        range_gradient(gradient, torch.tensor([1.0]), 4), range_gradient(gradient, torch.tensor([4.0]), 2)
    )


def test_steps_that_a_loss_scale_skips_do_not_count():
    assert checked_sum([torch.tensor(value) for value in (1.0, math.nan, math.inf, 2.0)]) == 3.0


def test_epochs_count_alike_and_the_budget_goes_to_the_layers_that_feel_it():
    epochs = [normalised({'a': 1e3, 'b': 1e3}), normalised({'a': 3e-3, 'b': 1e-3})]
    sensitivities = averaged(epochs)
    assert sensitivities == pytest.approx({'a': 0.625, 'b': 0.375})
    assert normalised({'a': 0.0, 'b': 0.0}) == {'a': 0.5, 'b': 0.5}
    losses = losses_of_bits({'a': 0.9, 'b': 0.1}, (2, 4, 8))
    assert losses['a'] == pytest.approx({2: 0.225, 4: 0.05625, 8: 0.9 / 256})
    costs = {layer: {bits: bits / 2 for bits in (2, 4, 8)} for layer in 'ab'}
    assert choose(costs, losses, 0.0, 5.0) == {'a': 8, 'b': 2}
    assert choose(costs, losses_of_bits({'a': 0.5, 'b': 0.5}, (2, 4, 8)), 0.0, 4.0) == {'a': 4, 'b': 4}
