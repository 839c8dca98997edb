"""The reference against the simulation."""

import copy

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from torch import nn
from torch.testing import assert_close

from mmacs.deploy.modules.activation import Quantize, recorded_integers
from mmacs.deploy.modules.weight import Weight
from mmacs.deploy.reference import reference_model
from mmacs.quantization import quantizers
from mmacs.quantization.quantizers import Quantizer
from tests.conftest import SHIPPED
from tests.test_deploy.models import Small, quantized, with_random_norms

IMAGES = [torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]


def simulated_integers(model, run):
    """Integers k of each call of each activation quantizer of a simulated model."""
    found = {}

    def record(name):
        calls = [0]

        def hook(quantizer, args, output):
            # channels that have a range each come first here
            level = calls[0] if quantizer.num_levels > 1 else 0
            step = quantizer.grid(level).step
            output = output.transpose(0, 1) if quantizer.num_channels > 1 else output
            found[f'{name}#{calls[0]}'] = (output / (step.view(-1, 1, 1) if step.numel() > 1 else step)).round()
            calls[0] += 1

        return hook

    handles = [
        quantizer.register_forward_hook(record(name))
        for name, quantizer in quantizers(model)
        if quantizer.kind == 'activation'
    ]
    with torch.no_grad():
        run(model)
    for handle in handles:
        handle.remove()
    return found


def compare(model, run, **settings):
    """Largest difference of levels, and the share of equal ones, of a model and its reference."""
    expected = simulated_integers(model, run)
    reference = reference_model(model, **settings)
    with torch.no_grad(), recorded_integers(reference) as found:
        run(reference)
    assert found.keys() == expected.keys()
    modules = {module.name: module for module in reference.modules() if isinstance(module, Quantize)}
    differences = []
    for name, integers in found.items():
        quantizer, _, call = name.partition('#')
        module = modules[quantizer]
        zero_point = module.zero_point(int(call) if module.num_levels > 1 else 0)
        differences.append((integers.float() - zero_point - expected[name]).abs().flatten())
    differences = torch.cat(differences)
    return differences.max().item(), (differences == 0).float().mean().item()


def without_biases(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.bias.data.zero_()
            module.running_mean.zero_()
    return model


@pytest.mark.parametrize(
    'recipe',
    [
        'w4a4',
        'w8a8',
        'w2a2',
        'w4a4-int',
        {'preset': 'w4a4', 'additions': {'bits': 8}},
        {'preset': 'w4a4', 'activation': {'per_channel': True}},
        {'preset': 'w4a4', 'weight': {'per_channel': False, 'power_of_two': True}},
        {'weight': {'type': 'OCTAV', 'bits': 4}, 'activation': {'type': 'PACT', 'bits': 4}},
        {'weight': {'type': 'TQT', 'bits': 4}, 'activation': {'type': 'MinMax', 'bits': 4}},
    ],
    ids=str,
)
def test_levels_are_those_of_the_simulation_where_there_are_no_biases(recipe):
    model = quantized(without_biases(with_random_norms(Small(bias=False))), recipe, IMAGES)
    difference, share = compare(model, lambda each: each(IMAGES[0]))
    assert difference <= 1
    assert share > 0.999


def test_outputs_are_those_of_the_simulation_up_to_the_rounding_of_biases():
    model = quantized(with_random_norms(Small()), 'w8a8', IMAGES)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    reference = reference_model(model)
    assert not any(isinstance(module, (Quantizer, nn.BatchNorm2d)) for module in reference.modules())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        expected, found = model(IMAGES[0]), reference(IMAGES[0])
    assert_close(found, expected, rtol=0, atol=0.02 * expected.abs().max().item())
    assert str(reference)


def test_what_is_in_full_precision_stays():
    rules = [{'name': 'conv1', 'skip': True}, {'name': 'fc', 'weight': None}, {'name': 'up', 'activation': None}]
    model = quantized(with_random_norms(Small()), {'preset': 'w4a4', 'rules': rules}, IMAGES)
    reference = reference_model(model)
    assert type(reference.conv1) is nn.Conv2d and isinstance(reference.bn1, nn.BatchNorm2d)
    assert reference.fc.stored_weight is None and reference.up.input_quantizer is None
    difference, share = compare(model, lambda each: each(IMAGES[0]))
    assert difference <= 1
    assert share > 0.98


def test_a_model_for_tensorrt_has_positive_scales_and_int8_activations():
    model = quantized(
        with_random_norms(Small()), {'preset': 'w4a4', 'rules': [{'name': '*', 'weight': {'bits': 8}}]}, IMAGES
    )
    reference = reference_model(model, target='tensorrt')
    scales = [value for name, value in reference.named_buffers() if 'stored_weight.scale' in name]
    assert all((scale > 0).all() for scale in scales)
    with recorded_integers(reference) as found:
        reference(IMAGES[0])
    assert {integers.dtype for integers in found.values()} == {torch.int8}
    assert 'conv1.input_quantizer#0' not in found  # 0 to 255, which int8 with zero at 0 does not hold


def test_a_level_that_was_never_calibrated_is_told_of():
    model = quantized(Small(), 'w4a4', IMAGES)
    model.fc.input_quantizer.forget_range()
    with pytest.raises(ValueError, match='fc.input_quantizer was never calibrated'):
        reference_model(model)(IMAGES[0])


@pytest.fixture
def heads(tiny_retinanet):
    """Narrow detectors: RetinaNet, one with BatchNorm per level in its head, and RTMDet, whose levels have several."""
    per_level = copy.deepcopy(tiny_retinanet)
    per_level.bbox_head.update(conv_cfg=None, norm_cfg=dict(type='mmacs.PerLevelBN', num_levels=5))
    rtmdet = Config.fromfile(SHIPPED / 'rtmdet' / 'rtmdet_tiny_8xb32-300e_coco.py').model
    rtmdet.backbone.update(deepen_factor=0.01, widen_factor=0.125, init_cfg=None, norm_cfg=dict(type='BN'))
    rtmdet.neck.update(in_channels=[32, 64, 128], out_channels=16, num_csp_blocks=1, norm_cfg=dict(type='BN'))
    rtmdet.bbox_head.update(num_classes=3, in_channels=16, feat_channels=16, norm_cfg=dict(type='BN'))
    return {'retinanet': tiny_retinanet, 'per_level': per_level, 'rtmdet': rtmdet}


@pytest.mark.parametrize(('name', 'norms_left'), [('retinanet', 0), ('per_level', 0), ('rtmdet', 0)])
def test_levels_of_detectors_are_those_of_the_simulation(heads, name, norms_left):
    model = with_random_norms(MODELS.build(heads[name]))
    images = [torch.randn(1, 3, 64, 64) for _ in range(2)]
    model = quantized(without_biases(model), {'preset': 'w4a4', 'activation': {'per_level': True}}, images)
    difference, share = compare(model, lambda each: each(images[0]))
    assert difference <= 1
    assert share > 0.999
    reference = reference_model(model)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in reference.modules()) == norms_left
    shared = [module for module in reference.modules() if isinstance(module, Weight)]
    assert len({module.levels.data_ptr() for module in shared}) == len(list(simulated_weights(model)))
    reference(images[0])  # counts anew


def test_what_several_read_is_one_tensor_of_integers(heads):
    model = with_random_norms(MODELS.build(heads['retinanet']))
    images = [torch.randn(1, 3, 64, 64) for _ in range(2)]
    model = quantized(without_biases(model), 'w4a4-int', images)
    difference, share = compare(model, lambda each: each(images[0]))
    assert difference <= 1
    assert share > 0.999
    reference, seen = reference_model(model), []
    head = reference.bbox_head
    quantizer = head.cls_convs[0].conv.input_quantizer
    for layer in (head.cls_convs[0].conv, head.reg_convs[0].conv, reference.neck.fpn_convs[4].conv):
        turn_of = layer.input_quantizer.turn_of
        layer.input_quantizer.turn_of = lambda x, turn_of=turn_of: seen.append(turn_of(x)) or seen[-1]
    with torch.no_grad(), recorded_integers(reference) as found:
        scores = reference(images[0])[0]
    assert [turn.call for turn in seen] == [3, *[level for level in range(5) for _ in range(2)]]
    assert not quantizer.turns  # holds no tensors any more
    assert found['bbox_head.retina_cls.output_quantizer#4'].shape == scores[4].shape


def simulated_weights(model):
    return (quantizer for _, quantizer in quantizers(model) if quantizer.kind == 'weight')
