"""Quantized predictions, and the presets that make all that runtimes store integers."""

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from torch import nn

from mmacs.quantization import Recipe, calibrate, layer_table, quantize_model, quantizers
from mmacs.quantization.participants import participants
from mmacs.quantization.quantizers import SharedQuantizer
from mmacs.utils.errors import MmacsError


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def images(seed=0):
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_predictions_lie_on_a_grid_of_their_own_whose_step_learns():
    model = quantize_model(network(), dict(preset='w4a4', outputs=dict(bits=3)))
    assert [name for name, _ in quantizers(model) if name.endswith('output_quantizer')] == ['4.output_quantizer']
    calibrate(model, [images()])
    logits = model.train()(images(1))
    grid = model[4].output_quantizer.grid()
    levels = logits.detach() / grid.step.detach()
    torch.testing.assert_close(levels, levels.round())
    assert levels.unique().numel() <= 8
    logits.square().sum().backward()
    assert model[4].output_quantizer.step.grad.abs() > 0 and model[0].weight.grad.abs().sum() > 0
    assert '4.output_quantizer' in layer_table(model)


def test_a_shared_head_has_an_output_step_per_level(tiny_retinanet):
    model = quantize_model(MODELS.build(tiny_retinanet), 'w4a4-int')
    data = model.data_preprocessor(demo_mm_inputs(1, [[3, 64, 64]], num_classes=3), False)
    assert calibrate(model, [data], lambda batch: model(**batch, mode='predict')) == []
    for layer in (model.bbox_head.retina_cls, model.bbox_head.retina_reg):
        assert layer.output_quantizer.bits == 8 and layer.output_quantizer.initialized.tolist() == [1] * 5
    with torch.no_grad():
        scores = model.eval()(data['inputs'])[0]
    for level, values in enumerate(scores):
        units = values / model.bbox_head.retina_cls.output_quantizer.grid(level).step
        torch.testing.assert_close(units, units.round(), atol=1e-3, rtol=0)
    assert not any('output_quantizer' in name for names in participants(model).values() for name in names)


@pytest.mark.parametrize('preset, bits', [('w4a4-int', 4), ('w8a8-int', 8)])
def test_integer_presets_quantize_what_a_model_has(preset, bits):
    recipe = Recipe(preset)
    assert (recipe.settings['weight']['bits'], recipe.sharing, recipe.outputs['bits']) == (bits, 'tensor', 8)
    assert recipe.additions['bits'] == recipe.concatenations['bits'] == 8
    model = quantize_model(network(), preset)  # which adds and concatenates nothing
    assert hasattr(model[4], 'output_quantizer') and model.recipe == {'preset': preset}


def test_what_a_preset_implies_can_be_changed(tiny_retinanet):
    changed = dict(preset='w4a4-int', additions=None, sharing='layer', outputs=dict(bits=6))
    model = quantize_model(MODELS.build(tiny_retinanet), changed)
    assert not any(isinstance(module, SharedQuantizer) for module in model.modules())
    assert not any('addition_quantizers' in name for name, _ in quantizers(model))
    assert model.bbox_head.retina_cls.output_quantizer.bits == 6


def test_rules_say_whose_outputs_are_quantized(tiny_retinanet):
    rules = [
        dict(name='bbox_head.retina_reg', outputs=None),
        dict(name='neck.lateral_convs.0.conv', outputs=dict(bits=6)),
    ]
    model = quantize_model(MODELS.build(tiny_retinanet), dict(preset='w4a4-int', rules=rules))
    found = {name: quantizer.bits for name, quantizer in quantizers(model) if name.endswith('output_quantizer')}
    assert found == {'neck.lateral_convs.0.conv.output_quantizer': 8, 'bbox_head.retina_cls.output_quantizer': 8}
    # the addition reads what the convolution gives, and wants 8 bits: one quantizer for both
    assert model.neck.addition_quantizers[2].source is model.neck.lateral_convs[0].conv.output_quantizer
    attention = nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 2))
    with pytest.raises(MmacsError, match='1 is a MultiheadAttention, whose outputs stay in full precision'):
        quantize_model(attention, dict(rules=[dict(name='1', outputs=dict(bits=8))]))


def test_outputs_that_nothing_gives_are_refused():
    recipe = dict(outputs=dict(bits=8), rules=[dict(role='prediction', skip=True)])
    with pytest.raises(MmacsError, match='the recipe quantizes outputs, but none of the layers that predict'):
        quantize_model(network(), recipe)
    quantize_model(network(), dict(preset='w4a4-int', rules=recipe['rules']))


@pytest.mark.parametrize(
    'recipe, message',
    [
        (dict(outputs=8), 'outputs must be a dict of settings'),
        (dict(outputs=dict(per_channel=True)), 'outputs have no per_channel'),
        (dict(sharing='map'), "unknown sharing 'map'"),
    ],
)
def test_wrong_settings_are_told(recipe, message):
    with pytest.raises(MmacsError, match=message):
        Recipe(recipe)
