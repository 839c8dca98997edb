import pytest
import torch
from torch import nn

from mmacs.quantization import calibrate, quantize_model, quantizers
from mmacs.quantization.analysis.sensitivity import (
    Record,
    layers_to_choose,
    measure_drops,
    only,
    quantizers_by_layer,
    set_bits,
)


@pytest.fixture
def net():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 4))
    return quantize_model(model, 'w4a4')


def calibration(model, seed=0):
    return lambda: calibrate(model, [torch.randn(64, 4, generator=torch.Generator().manual_seed(seed))])


def test_only_one_layer_is_quantized(net):
    calibration(net)()
    x = torch.randn(8, 4)
    linear = nn.functional.linear
    hidden = linear(x, net[0].weight, net[0].bias).relu()
    with only(net, ['2']):
        expected = linear(net[2](hidden), net[3].weight, net[3].bias)
        assert torch.equal(net(x), expected)
        assert not torch.equal(net[2](hidden), linear(hidden, net[2].weight, net[2].bias))
    assert all(quantizer.enabled for _, quantizer in quantizers(net))


def test_what_was_off_stays_off_after_an_error(net):
    net[0].input_quantizer.enabled = False
    with pytest.raises(KeyError), only(net, ['2']):
        raise KeyError
    assert [name for name, quantizer in quantizers(net) if not quantizer.enabled] == ['0.input_quantizer']


def test_other_bits_are_calibrated_as_if_the_model_were_built_with_them(net):
    calibration(net)()
    kept = {key: value.clone() for key, value in net.state_dict().items() if key.startswith('0.')}
    set_bits(net, [net[2].weight_quantizer, net[2].input_quantizer], 3, calibration(net, seed=1))
    fresh = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 4))
    fresh.load_state_dict({key: value for key, value in net.state_dict().items() if 'quantizer' not in key})
    quantize_model(fresh, 'w3a3')
    calibration(fresh, seed=1)()
    for kind in ('weight_quantizer', 'input_quantizer'):
        assert getattr(net[2], kind).bits == 3
        torch.testing.assert_close(getattr(net[2], kind).grid().step, getattr(fresh[2], kind).grid().step)
    assert all(torch.equal(net.state_dict()[key], value) for key, value in kept.items())


def test_first_and_last_layers_stay_as_the_recipe_says(net):
    assert list(layers_to_choose(net)) == ['2']
    assert list(layers_to_choose(net, all_layers=True)) == ['0', '2', '3']


@pytest.mark.parametrize(
    ('changes', 'kinds'),
    [
        (dict(), ['weight_quantizer', 'input_quantizer']),
        (dict(activation=dict(bits=8)), ['weight_quantizer']),
        (dict(activation=None), ['weight_quantizer']),
        (dict(weight=None), None),
        (dict(weight=None, activation=None), None),
    ],
)
def test_inputs_follow_the_weight_where_the_recipe_gives_both_the_same_bits(changes, kinds):
    linears = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model = quantize_model(linears, dict(rules=[dict(name='1', **changes)]))
    assert layers_to_choose(model) == ({'1': [getattr(model[1], kind) for kind in kinds]} if kinds else {})


def test_an_attention_in_full_precision_with_a_quantized_projection_is_left_out():
    model = nn.ModuleDict(dict(first=nn.Linear(8, 8), attention=nn.MultiheadAttention(8, 2), last=nn.Linear(8, 8)))
    quantize_model(model, dict(rules=[dict(name='attention', skip=True)]))
    assert list(layers_to_choose(model)) == ['attention.out_proj']


def test_weights_alone_are_changed_and_calibrated(net):
    calibration(net)()
    step = net[2].input_quantizer.grid().step.clone()
    set_bits(net, [net[2].weight_quantizer], 2, calibration(net, seed=1))
    assert (net[2].weight_quantizer.bits, net[2].input_quantizer.bits) == (2, 4)
    assert torch.equal(net[2].input_quantizer.grid().step, step)
    assert all(quantizer.enabled and quantizer.is_initialized() for _, quantizer in quantizers(net))


def test_drops_are_of_each_layer_alone_and_survive_a_kill(net, tmp_path):
    calibration(net)()
    x = torch.randn(32, 4)

    def score():
        enabled = {name.split('.')[0] for name, quantizer in quantizers(net) if quantizer.enabled}
        seen.append((enabled, net[2].weight_quantizer.bits))
        return 1.0 - 0.1 * len(seen)

    with only(net, []):
        full = net(x)
    seen, layers = [], ['0', '2']
    record = Record(tmp_path / 'record.json', {'images': 8})
    record.metric, record.full_precision = 'accuracy', 1.0
    free = layers_to_choose(net, all_layers=True)
    measuring = measure_drops(net, free, record, [(2, layers), (8, layers)], score, calibration(net))
    assert [next(measuring), next(measuring), next(measuring)] == ['0', '2', '0']
    measuring.close()
    assert seen == [({'0'}, 2), ({'2'}, 2), ({'0'}, 8)]
    with only(net, []):
        assert torch.equal(net(x), full)

    again = Record(tmp_path / 'record.json', {'images': 8})
    assert (again.metric, again.full_precision) == ('accuracy', 1.0)
    assert [again.missing(layers, bits) for bits in (2, 8, 4)] == [[], ['2'], layers]
    assert again.drops['2'][2] == pytest.approx(0.2)
    assert Record(tmp_path / 'record.json', {'images': 9}).drops == {}


@pytest.mark.parametrize('content', ['', '[]', '{"conditions": {}', '[' * 100_000], ids=lambda content: content[:4])
def test_a_damaged_record_is_measured_anew(tmp_path, content):
    (tmp_path / 'record.json').write_text(content)
    assert Record(tmp_path / 'record.json', {'images': 8}).drops == {}


def test_layers_are_in_the_models_order(net):
    assert list(quantizers_by_layer(net)) == ['0', '2', '3']
