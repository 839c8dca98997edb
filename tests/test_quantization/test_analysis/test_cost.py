import pytest
import torch
from mmcv.ops import ModulatedDeformConv2dPack
from torch import nn

from mmacs.quantization import calibrate, quantize_model
from mmacs.quantization.analysis.cost import bit_operations, count_macs, model_bytes


@pytest.mark.parametrize(
    ('layer', 'shape', 'expected'),
    [
        (nn.Conv2d(3, 8, 3, padding=1), (1, 3, 5, 7), 5 * 7 * 8 * 3 * 9),
        (nn.Conv2d(4, 8, 3, stride=2, groups=2), (1, 4, 7, 7), 3 * 3 * 8 * 2 * 9),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (1, 4, 5, 5), 5 * 5 * 4 * 6 * 4),
        (nn.Linear(6, 5), (2, 9, 6), 2 * 9 * 6 * 5),
        # the kernel, and the convolution that gives 3 x 9 offsets and masks
        (ModulatedDeformConv2dPack(2, 4, 3, padding=1), (1, 2, 4, 4), 4 * 4 * 2 * 9 * (4 + 27)),
    ],
)
def test_macs_by_hand(layer, shape, expected):
    assert sum(count_macs(nn.Sequential(layer), lambda: layer(torch.randn(shape))).values()) == expected


def test_attention_counts_its_four_projections():
    model = nn.ModuleDict({'attention': nn.MultiheadAttention(8, 2, kdim=6, vdim=4)})
    query, key, value = torch.randn(5, 1, 8), torch.randn(7, 1, 6), torch.randn(7, 1, 4)
    for call in (
        lambda: model['attention'](query, key, value),
        lambda: model['attention'](query, key=key, value=value),
    ):
        macs = count_macs(model, call)
        assert macs == {'attention': 8 * (5 * 8 + 7 * 6 + 7 * 4), 'attention.out_proj': 5 * 8 * 8}


def test_shared_layers_count_every_call():
    layer = nn.Conv2d(2, 2, 1)
    macs = count_macs(nn.Sequential(layer), lambda: [layer(torch.randn(1, 2, size, size)) for size in (4, 2)])
    assert macs == {'0': 4 * (16 + 4)}


def test_bit_operations_multiply_the_bit_widths():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    rules = [
        dict(name='0', weight=dict(bits=2), activation=dict(bits=3)),
        dict(name='1', weight=dict(bits=4), activation=None),
        dict(name='2', skip=True),
    ]
    quantize_model(model, dict(rules=rules))
    calibrate(model, [torch.randn(1, 4)])
    macs = count_macs(model, lambda: model(torch.randn(1, 4)))
    assert bit_operations(model, macs) == {'0': 16 * 2 * 3, '1': 16 * 4 * 32, '2': 16 * 32 * 32}


def test_bytes_by_hand():
    model = nn.Sequential(nn.Conv2d(2, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1, bias=False))
    model[2].weight_of_someone_else = model[2].weight  # the same tensor under two names
    rules = [dict(name='*', weight=dict(bits=4), activation=dict(bits=8)), dict(name='2', skip=True)]
    quantize_model(model, dict(rules=rules))
    others = 4 * (8 + 4 * 8 + 32)
    assert model_bytes(model) == (16 * 4 / 8 + 4 * (8 + 1) + others, 4 * 16 + others)


def test_a_weight_that_layers_share_counts_once():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    rules = [dict(name='*', weight=dict(bits=4), activation=dict(bits=4))]
    quantize_model(model, dict(rules=rules))
    steps = 2 * (4 + 1)
    assert model_bytes(model) == (16 * 4 / 8 + 4 * steps, 16 * 4)


def test_learned_offsets_are_stored():
    model = quantize_model(nn.Sequential(nn.Linear(4, 4, bias=False)), dict(activation=dict(type='LSQPlus', bits=8)))
    assert model_bytes(model)[0] == 16 * 8 / 8 + 4 * 4 + 4 * 2
