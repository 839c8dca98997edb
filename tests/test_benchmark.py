import importlib.util
from pathlib import Path

import pytest
import torch

from mmacs.quantization import calibrate, quantize_model, quantizers
from mmacs.quantization.fake_quant import lsq_quantize
from mmacs.registry import MODELS

CPU = torch.device('cpu')


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('benchmark', Path(__file__).parents[1] / 'tools' / 'benchmark.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_shared_storages_count_once(tool):
    x = torch.zeros(4)
    assert tool.storage_bytes([x, x[1:], x.view(2, 2), torch.zeros(1), None]) == 16 + 4


def test_peak_is_the_highest_running_sum(tool):
    assert tool.peak_growth([4, -2, 5, -7, 6]) == 7
    assert tool.peak_growth([-4]) == 0


def test_peak_of_a_step_counts_what_lives_at_once(tool):
    x = torch.zeros(1000)

    def step():
        for _ in range(5):
            (x + 1) * 2  # two results of 4000 bytes live at once, the next round's none

    assert 12000 <= tool.peak_bytes(step, lambda: [x], CPU) < 12100  # and the operands 1 and 2


@pytest.mark.parametrize('name', ['LSQ written out', 'torch.ao learnable', 'brevitas'])
@pytest.mark.parametrize(('q_min', 'q_max', 'channels'), [(-8, 7, 1), (0, 15, 1), (-8, 7, 3)])
def test_other_implementations_quantize_to_the_same_values(tool, name, q_min, q_max, channels):
    if name == 'brevitas':
        pytest.importorskip('brevitas')
    x = torch.randn(3, 4, 5, 5)
    step = torch.linspace(0.1, 0.2, channels)
    theirs = tool.OTHERS[name](step, q_min, q_max)(x)
    difference = (theirs - lsq_quantize(x, step, q_min, q_max)).abs()
    assert (difference > 1e-5).float().mean() < 0.02  # values halfway between levels may round to either


def test_written_out_lsq_has_the_gradients_of_ours(tool):
    x, step = torch.randn(3, 4, 5, 5, requires_grad=True), torch.tensor([0.1, 0.2, 0.3], requires_grad=True)
    theirs = tool.WrittenOutLSQ(step.detach(), -8, 7)
    weights = torch.randn_like(x)
    ours = torch.autograd.grad((lsq_quantize(x, step, -8, 7) * weights).sum(), (x, step))
    (grad_x, grad_step) = torch.autograd.grad((theirs(x) * weights).sum(), (x, theirs.step))
    torch.testing.assert_close(grad_x, ours[0])
    torch.testing.assert_close(grad_step, ours[1], rtol=1e-4, atol=1e-5)


def test_a_swapped_model_gives_the_same_outputs_level_by_level(tool, tiny_retinanet):
    model = quantize_model(MODELS.build(tiny_retinanet), 'w4a4').eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        calibrate(model, [images])
        before = model(images)
        tool.swap_quantizers(model, tool.WrittenOutLSQ)
        after = model(images)
    assert not list(quantizers(model))
    for ours, theirs in zip(before, after):
        for a, b in zip(ours, theirs):
            assert (a - b).norm() <= 0.05 * a.norm()  # x / s and x * (1 / s) may round to different levels
