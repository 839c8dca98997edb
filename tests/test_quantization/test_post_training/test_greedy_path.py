"""GPFQ's equations."""

import pytest
import torch
from torch.testing import assert_close

from mmacs.quantization.post_training import greedy_path

STEP = 0.25


def to_levels(values):
    return (values / STEP).round().clamp(-8, 7) * STEP


def written_out(weight, quantized, full_precision):
    """The recursion of the paper, with the residual of all rows at hand; (C, N) and (rows, N) twice."""
    chosen = torch.zeros_like(weight)
    for neuron, w in enumerate(weight):
        residual = torch.zeros(len(quantized), dtype=weight.dtype)
        for t in range(weight.shape[1]):
            x, y = full_precision[:, t], quantized[:, t]
            residual = residual + w[t] * x
            q = to_levels(y @ residual / (y @ y))
            chosen[neuron, t], residual = q, residual - q * y
    return chosen


@pytest.fixture
def layer():
    """Two groups of 5 neurons with 12 weights, and correlated inputs of both networks."""
    full_precision = torch.randn(2, 300, 12).double().cumsum(2)
    quantized = full_precision + 0.1 * torch.randn(2, 300, 12)
    return torch.rand(2, 5, 12).double() * 2 - 1, quantized, full_precision


def rounded(weight, quantized, full_precision):
    return greedy_path(
        weight, quantized.transpose(1, 2) @ quantized, quantized.transpose(1, 2) @ full_precision, to_levels
    )


def test_products_of_columns_say_what_all_rows_do(layer):
    found = rounded(*layer)
    for group in range(2):
        assert_close(found[group], written_out(*(part[group] for part in layer)))


def test_outputs_are_nearer_than_by_rounding_to_the_nearest_level(layer):
    weight, quantized, full_precision = layer
    wanted = full_precision @ weight.transpose(1, 2)
    errors = [
        (quantized @ chosen.transpose(1, 2) - wanted).square().mean() for chosen in (rounded(*layer), to_levels(weight))
    ]
    assert errors[0] < 0.5 * errors[1]


def test_weights_that_nothing_meets_are_rounded(layer):
    weight, quantized, full_precision = layer
    quantized[:, :, 3] = 0
    found = rounded(weight, quantized, full_precision)
    assert_close(found[:, :, 3], to_levels(weight[:, :, 3]))
    assert found.isfinite().all()
