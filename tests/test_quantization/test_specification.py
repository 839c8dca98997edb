"""What checkpoints say of quantization: written, read back, compared; texts of mmacs 0.1 and damage of all kinds."""

import copy
import io
import json

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from torch import nn

from mmacs.quantization import Specification, quantize_model
from mmacs.quantization.quantizers import LSQ
from mmacs.utils.errors import MmacsError

ASYMMETRIC = dict(type='MinMax', symmetric=False, power_of_two=True)


def convolution(recipe='w4a4'):
    return quantize_model(nn.Sequential(nn.Conv2d(2, 64, 3), nn.ReLU(), nn.Conv2d(64, 3, 1)), recipe)


def written(model):
    """What a checkpoint with the specification gives when nothing but plain values may be loaded."""
    file = io.BytesIO()
    torch.save(Specification.of(model).state(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_plain_values_say_what_each_quantizer_is(tiny_retinanet):
    recipe = ConfigDict(preset='w2a2', activation=ASYMMETRIC, rules=[dict(name='neck.*', weight=dict(bits=3))])
    state = written(quantize_model(MODELS.build(tiny_retinanet), recipe))
    assert state['version'] == 1
    assert state['recipe'] == json.loads(json.dumps(recipe)) and type(state['recipe']) is dict
    found = state['quantizers']
    assert found['neck.fpn_convs.0.conv.weight_quantizer'] == dict(
        type='LSQ', bits=3, granularity='per_channel', ranges=16, options={}
    )
    assert found['bbox_head.cls_convs.0.conv.input_quantizer'] == dict(
        type='MinMax', bits=2, granularity='per_level', ranges=5, options=dict(power_of_two=True, symmetric=False)
    )
    assert found['backbone.conv1.input_quantizer']['granularity'] == 'per_tensor'


def test_what_is_written_is_read_back():
    own = Specification.of(convolution(dict(preset='w4a4', activation=ASYMMETRIC)))
    assert Specification.from_state(own.state()) == own
    own.require_same(Specification.from_state(own.state()), resume=True)


def as_text(model):
    """What mmacs 0.1 wrote into checkpoints."""
    found = {}
    for name, each in Specification.of(model).quantizers.items():
        found[name] = f'{each.type}, {each.bits} bits, {each.ranges} range' + ('s' if each.ranges > 1 else '')
        found[name] += ', powers of two' if 'power_of_two' in each.options else ''
        found[name] += ', asymmetric' if 'symmetric' in each.options else ''
    return {'recipe': json.dumps(model.recipe), 'quantizers': found}


@pytest.mark.parametrize('activation', [dict(type='LSQ'), dict(type='LSQ', power_of_two=True), ASYMMETRIC])
def test_texts_of_the_first_release_say_the_same(tiny_retinanet, activation):
    recipe = dict(preset='w4a4', weight=dict(power_of_two=True), activation=activation)
    model = quantize_model(MODELS.build(tiny_retinanet), recipe)
    assert Specification.from_state(as_text(model)) == Specification.of(model)


def test_texts_of_the_first_release_are_compared():
    own = Specification.of(convolution(dict(preset='w4a4', activation=ASYMMETRIC)))
    quantizers = {
        '0.weight_quantizer': 'LSQ, 8 bits, 64 ranges',
        '0.input_quantizer': 'MinMax, 8 bits, 1 range, powers of two, asymmetric',
        '2.weight_quantizer': 'LSQ, 8 bits, 3 ranges',
        '2.input_quantizer': 'MinMax, 8 bits, 1 range, powers of two, asymmetric',
    }
    state = {'recipe': '{"preset": "w4a4"}', 'quantizers': quantizers}
    own.require_same(Specification.from_state(state), resume=True)
    quantizers['0.weight_quantizer'] = 'LSQ, 8 bits, 1 range'
    quantizers['2.input_quantizer'] = 'MinMax, 8 bits, 1 range, powers of two'
    with pytest.raises(MmacsError, match='2 quantizers differ') as raised:
        own.require_same(Specification.from_state(state), resume=True)
    assert (
        "0.weight_quantizer (granularity 'per_channel' in the model, 'per_tensor' in the checkpoint, ranges 64 in the "
        "model, 1 in the checkpoint); 2.input_quantizer (options {'power_of_two': True, 'symmetric': False} in the "
        "model, {'power_of_two': True} in the checkpoint)"
    ) in str(raised.value)


@pytest.mark.parametrize(
    ('other', 'difference'),
    [
        (dict(preset='w4a8'), r'2 quantizers differ, first 0.input_quantizer \(bits 4 in the model, 8 in the ch'),
        (dict(preset='w4a4', weight=dict(type='TQT')), "0.weight_quantizer .type 'LSQ' in the model, 'TQT' in the"),
        (
            dict(preset='w4a4', weight=dict(power_of_two=True)),
            "0.weight_quantizer .options {} in the model, {'power_of_two': True} in the checkpoint",
        ),
        (
            dict(preset='w4a4', weight=dict(per_channel=False)),
            "granularity 'per_channel' in the model, 'per_tensor' in the checkpoint, ranges 64 in the model, 1 in the",
        ),
        (
            dict(preset='w4a4', rules=[dict(name='0', skip=True)]),
            r'0.weight_quantizer \(LSQ, 4 bits, per_channel in the model, full precision in the checkpoint\)',
        ),
    ],
)
def test_a_difference_is_named_with_its_field_and_both_values(other, difference):
    rules = [dict(role=role, weight=dict(bits=4), activation=dict(bits=4)) for role in ('input', 'prediction')]
    own = Specification.of(convolution(dict(preset='w4a4', rules=rules)))
    kept = [dict(role=role, weight=dict(bits=4)) for role in ('input', 'prediction')]
    if other['preset'] == 'w4a4':
        kept = rules
    found = Specification.of(convolution(dict(other, rules=[*kept, *other.get('rules', [])])))
    with pytest.raises(MmacsError, match=difference) as raised:
        own.require_same(found, resume=True)
    assert f'of the checkpoint: {json.dumps(found.recipe)}' in str(raised.value)


def test_a_start_may_quantize_more_than_the_checkpoint_but_not_less():
    all_layers = Specification.of(convolution())
    one_layer = Specification.of(convolution(dict(preset='w4a4', rules=[dict(name='0', skip=True)])))
    all_layers.require_same(one_layer, resume=False)
    with pytest.raises(MmacsError, match='full precision in the checkpoint'):
        all_layers.require_same(one_layer, resume=True)
    with pytest.raises(MmacsError, match='full precision in the model, LSQ, 8 bits, per_channel in the checkpoint'):
        one_layer.require_same(all_layers, resume=False)


def test_a_newer_version_asks_for_a_newer_mmacs():
    state = Specification.of(convolution()).state()
    with pytest.raises(MmacsError, match='in version 2, and this mmacs reads versions up to 1: update mmacs'):
        Specification.from_state(dict(state, version=2, quantizers='another form'))


NAME = '0.weight_quantizer'


def test_words_of_other_quantizers_in_texts_of_the_first_release_are_options():
    found = as_text(convolution())
    found['quantizers'][NAME] = 'Own, 4 bits, 64 ranges, powers of two, alpha=2'
    own = Specification.from_state(found).quantizers[NAME]
    assert own.options == {'power_of_two': True, 'alpha=2': True}


@pytest.mark.parametrize('options', [['powers of two'], {'alpha': torch.ones(1)}, {'alpha': {2: 1}}, {'alpha': {3}}])
def test_options_that_a_checkpoint_could_not_give_back_name_the_quantizer(monkeypatch, options):
    model = convolution()
    monkeypatch.setattr(LSQ, 'options', lambda self: options)
    with pytest.raises(MmacsError, match=r'LSQ.options\(\) must return a dict of plain values'):
        Specification.of(model)
    monkeypatch.setattr(LSQ, 'options', lambda self: {'alpha': [1, 0.5, {'of': (None, 'x', True)}]})
    assert Specification.from_state(written(model)) == Specification.of(model)


@pytest.mark.parametrize('state', [None, 'w4a4', [1, 2], torch.zeros(3), {}])
def test_what_is_no_specification_is_one_sentence(state):
    with pytest.raises(MmacsError, match='the quantization in the checkpoint is damaged: '):
        Specification.from_state(state)


@pytest.mark.parametrize(
    'damage',
    [
        lambda state: state.pop('quantizers'),
        lambda state: state.pop('recipe'),
        lambda state: state.pop('version'),
        lambda state: state.update(version='1'),
        lambda state: state.update(version=True),
        lambda state: state.update(version=-1),
        lambda state: state.update(recipe='{"preset": "w4a4"}'),
        lambda state: state.update(quantizers=['LSQ']),
        lambda state: state.update(quantizers={('0', 'weight'): 'LSQ'}),
        lambda state: state['quantizers'].update({3: state['quantizers'][NAME]}),
        lambda state: state['quantizers'].update({NAME: 'LSQ, 4 bits, 64 ranges'}),
        lambda state: state['quantizers'][NAME].pop('bits'),
        lambda state: state['quantizers'][NAME].update(zero_point=3),
        lambda state: state['quantizers'][NAME].update(type=4),
        lambda state: state['quantizers'][NAME].update(bits=4.0),
        lambda state: state['quantizers'][NAME].update(bits=torch.tensor([4, 4])),
        lambda state: state['quantizers'][NAME].update(granularity='per_row'),
        lambda state: state['quantizers'][NAME].update(granularity=torch.zeros(2)),
        lambda state: state['quantizers'][NAME].update(ranges=0),
        lambda state: state['quantizers'][NAME].update(options=['power_of_two']),
        lambda state: state['quantizers'][NAME].update(options={'alpha': torch.zeros(2)}),
    ],
)
def test_damaged_specifications_are_one_sentence(damage):
    state = Specification.of(convolution()).state()
    damage(state)
    with pytest.raises(MmacsError, match='the quantization in the checkpoint is damaged: '):
        Specification.from_state(state)


@pytest.mark.parametrize(
    'damage',
    [
        dict(recipe='{"preset": '),
        dict(recipe='"w4a4"'),
        dict(recipe=None),
        dict(quantizers={NAME: 'LSQ of 4 bits'}),
        dict(quantizers={NAME: 4}),
        dict(quantizers={NAME: f'LSQ, 4 bits, {"9" * 5000} ranges'}),
        dict(recipe='[' * 10**5),
    ],
)
def test_damaged_texts_are_one_sentence(damage):
    found = as_text(convolution())
    assert Specification.from_state(copy.deepcopy(found))
    with pytest.raises(MmacsError, match='the quantization in the checkpoint is damaged: '):
        Specification.from_state({**found, **damage})
