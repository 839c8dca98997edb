import math

import pytest
import torch
from torch import nn

from mmacs.quantization import calibrate, quantize_model
from mmacs.quantization.kl_range import divergence, kl_range
from mmacs.quantization.mse_range import zero_based_range
from mmacs.quantization.quantizers import KL
from mmacs.utils.errors import MmacsError


def rectified(n=2**14):
    return torch.randn(n, generator=torch.Generator().manual_seed(0)).relu()


def test_the_divergence_is_the_equation():
    counts = torch.tensor([2.0, 0, 4, 1, 3, 5, 0, 6])
    levels = torch.tensor([-1.0, 0, 0, 1, 1, 1, 2, 3])
    inside = torch.tensor([False, True, True, True, True, True, True, False])
    # bins 2 to 5 hold values inside; what lies outside is clipped into the first and last of them
    p = [6 / 21, 1 / 21, 3 / 21, 11 / 21]
    q = [4 / 13, 3 / 13, 3 / 13, 3 / 13]
    expected = sum(each * math.log(each / other) for each, other in zip(p, q))
    assert divergence(counts, levels, inside).item() == pytest.approx(expected, rel=1e-5)
    assert divergence(counts, levels, torch.zeros(8, dtype=torch.bool)) == torch.inf


@pytest.mark.parametrize('bits', [4, 8])
def test_zeros_do_not_move_the_range_and_a_few_outliers_hardly_do(bits):
    x = rectified()
    step, zero_point = kl_range(x, bits, False)
    assert zero_point == 0
    assert 2.5 < step * (2**bits - 1) < 1.1 * x.max()
    assert kl_range(torch.cat([x, torch.zeros(10**5)]), bits, False) == (step, zero_point)
    outlying = torch.cat([x, torch.tensor([20.0, 21.0])])
    assert kl_range(outlying, bits, False)[0] < 1.5 * step
    if bits == 8:
        assert zero_based_range(outlying[None], bits, False)[0] > 3 * step  # the least squared error covers them


def test_evenly_spread_values_keep_their_whole_range():
    step, _ = kl_range(torch.linspace(0, 1, 2**14), 8, False)
    assert step * 255 == pytest.approx(1, rel=0.02)


def test_values_of_both_signs():
    x = nn.functional.silu(2 * torch.randn(2**14, generator=torch.Generator().manual_seed(0)))
    step, zero_point = kl_range(x, 8, False)
    assert -0.35 < -zero_point * step < -0.2  # where SiLU has its minimum
    step, zero_point = kl_range(x, 4, True)
    assert zero_point == 8 and 0 < step * 7 <= 1.2 * x.max()


def test_calibration_starts_at_it_and_the_step_is_learned():
    model = nn.Sequential(nn.ReLU(), nn.Conv2d(2, 3, 1))
    quantize_model(model, dict(preset='w4a4', activation=dict(type='KL')))
    x = rectified(4 * 2 * 16 * 16).view(4, 2, 16, 16)
    calibrate(model, [x[:2], x[2:]])
    quantizer = model[1].input_quantizer
    torch.testing.assert_close(quantizer.step.detach(), kl_range(x, quantizer.bits, False)[0])
    model.train()(x).sum().backward()
    assert quantizer.step.grad.abs() > 0


def test_what_cannot_be_is_refused():
    with pytest.raises(MmacsError, match='KL has one range for all channels: leave per_channel out'):
        KL(num_channels=3)
    with pytest.raises(MmacsError, match="unknown init 'mse'"):
        KL(init='mse')
