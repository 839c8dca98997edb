import copy

import pytest
import torch
from mmpretrain.models.backbones import RepVGG
from torch import nn

from mmacs.quantization import calibrate, quantize_model
from mmacs.quantization.analysis.cost import model_bytes
from mmacs.quantization.quantizers import CoarseFine
from mmacs.utils.errors import MmacsError

from .test_quantizer_family import calibrated


def weight(*kernel, large=1.0):
    """A weight whose centres are large in the last two channels."""
    w = torch.randn(4, 3, *kernel, generator=torch.Generator().manual_seed(0))
    w[(slice(2, 4), ..., *(side // 2 for side in kernel))] *= large
    return w


def quantizer(w, **kwargs):
    kwargs = {'num_channels': len(w), **kwargs}
    return calibrated(CoarseFine(shape=tuple(w.shape), kind='weight', signed=True, **kwargs), w).eval()


@pytest.mark.parametrize('kernel', [(3, 3), (1, 5), (3,)])
def test_it_is_the_sum_of_two_integer_kernels_of_which_the_coarse_one_is_the_centre(kernel):
    w = weight(*kernel, large=100.0)
    centre = (..., *(side // 2 for side in kernel))
    rest = w.clone()
    rest[centre] = 0
    ends = [part.flatten(1).abs().amax(1).view(-1, *[1] * (w.dim() - 1)) for part in (w[centre], rest)]
    s_c = ends[0] / 127
    coarse = torch.zeros_like(w)
    coarse[centre] = (w[centre] / s_c.view(-1, 1)).round() * s_c.view(-1, 1)
    s_f = torch.maximum(ends[1], s_c / 2) / 127
    expected = coarse + ((w - coarse) / s_f).round() * s_f
    found = quantizer(w, bits=8)
    torch.testing.assert_close(found(w), expected)
    assert ((found(w) - w).abs() <= s_f / 2 + 1e-6).all()  # hence no weight is lost beside the large ones
    assert (10 * s_f[2:] < s_c[2:]).all()


@pytest.mark.parametrize('kernel', [(), (1, 1), (2, 2)])
def test_without_a_centre_all_is_coarse_and_the_fine_part_what_is_left(kernel):
    w = weight(*kernel)
    found = quantizer(w, bits=4, num_channels=1)
    coarse, fine = found.steps()
    torch.testing.assert_close(coarse, w.abs().max().view(1) / 7)
    torch.testing.assert_close(fine, coarse / 14)
    assert ((found(w) - w).abs() <= fine / 2 + 1e-6).all()


@pytest.mark.parametrize('power_of_two', [False, True])
def test_nothing_is_clipped_after_a_change_of_bits_and_with_powers_of_two(power_of_two):
    w = weight(3, 3, large=20.0)
    found = quantizer(w, bits=8, power_of_two=power_of_two)
    for bits in (8, 5, 3):
        found.change_bits(bits)
        coarse, fine = found.steps()
        assert not power_of_two or torch.equal(fine.log2(), fine.log2().round())
        if not power_of_two:
            assert ((found(w) - w).abs() <= fine.view(-1, 1, 1, 1) / 2 + 1e-6).all()
        assert ((found(w) - w).square().mean() < w.square().mean() * 4.0 ** -(bits - 2)).all()


def test_in_training_ranges_follow_the_weight_and_gradients_pass():
    w = weight(3, 3, large=20.0)
    found = quantizer(w, bits=4).train()
    larger = (2 * w).requires_grad_()
    y = found(larger)
    torch.testing.assert_close(y, 2 * quantizer(w, bits=4)(w))
    upstream = torch.randn_like(w)
    y.backward(upstream)
    torch.testing.assert_close(larger.grad, upstream)


def test_the_coarse_part_counts_in_the_size():
    sizes = []
    for kind in ('MinMax', 'CoarseFine'):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3, bias=False), nn.Conv2d(8, 2, 1))
        quantize_model(model, dict(preset='w4a32', weight=dict(type=kind), rules=[dict(name='0', skip=True)]))
        calibrate(model, [torch.rand(1, 3, 8, 8)])
        sizes.append(model_bytes(model)[0])
    # one more step per channel; 4 bits for each of 32 centres, and 8 for each of the predicting layer's 16 weights
    assert sizes[1] - sizes[0] == 4 * (8 + 2) + 32 * 4 / 8 + 16 * 8 / 8


def repvgg():
    """A RepVGG as trained ones are: a quarter of each block's channels has a small variance, which the identity branch
    of the next block normalises. Its branches are folded."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        arch = dict(num_blocks=[1, 4, 1, 1], width_factor=[0.75, 0.375, 0.06, 0.03], group_layer_map=None, se_cfg=None)
        model = RepVGG({**arch, 'stem_channels': 48}, out_indices=(1,))
        model.train()
        for block in (block for block in model.modules() if hasattr(block, 'branch_3x3')):
            scale = torch.ones(block.out_channels)
            scale[torch.randperm(len(scale))[: len(scale) // 4]] = 0.03
            for norm in (block.branch_3x3.norm, block.branch_1x1.norm, block.branch_norm):
                if norm is not None:
                    norm.momentum = None
                    norm.weight.data.copy_(scale)
        images = torch.randn(3, 8, 3, 32, 32)
        with torch.no_grad():
            model(images[0])
    model.switch_to_deploy()
    model.eval()
    return model, images[1:]


def test_a_folded_repvgg_collapses_at_w8a8_without_training_and_with_this_does_not():
    model, (images, others) = repvgg()
    kernel = model.stage_2[2].branch_reparam.weight
    rest = kernel.detach().clone()
    rest[:, :, 1, 1] = 0
    assert (kernel.flatten(1).abs().amax(1) / rest.flatten(1).abs().amax(1)).max() > 100  # taps of identity branches

    @torch.no_grad()
    def errors(recipe):
        """Squared error over variance, by channel."""
        quantized = quantize_model(copy.deepcopy(model), recipe)
        calibrate(quantized, [others])
        quantized.eval()
        (y,), (expected,) = quantized(images), model(images)
        return (y - expected).square().mean((0, 2, 3)) / expected.var((0, 2, 3))

    plain = errors('w8a8')
    split = errors(dict(preset='w8a8', weight=dict(type='CoarseFine'), activation=dict(type='KL')))
    assert plain.mean() > 0.25 and plain.max() > 0.7
    assert split.mean() < 0.05 and split.max() < 0.15


def test_activations_are_refused():
    with pytest.raises(MmacsError, match='CoarseFine quantizes the weight, not the activation'):
        quantize_model(nn.Linear(2, 2), dict(preset='w4a4', activation=dict(type='CoarseFine')))
