import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmdet.registry import MODELS

from mmacs.quantization import quantize_model, quantizers
from mmacs.quantization.learned_bits import LearnedBits, change_bits, cost_gradient, relative_cost
from mmacs.quantization.participants import participants

W8A8 = {'weight': 8, 'activation': 8}


def step(learned, gradient, **changes):
    return learned.step(gradient, **{**dict(lr=1.0, low=2, high=8), **changes})


@pytest.mark.parametrize(('value', 'bits', 'below'), [(8.0, 8, 8), (7.01, 8, 7), (3.5, 4, 3)])
def test_computes_with_the_integer_above(value, bits, below):
    assert (LearnedBits(value).bits, LearnedBits(value).bits_below) == (bits, below)


def test_gradient_descent_within_limits():
    assert step(LearnedBits(5.0), 0.25, lr=2.0).value == 4.5
    assert step(LearnedBits(5.0), 100.0).value == 2.0
    assert step(LearnedBits(5.0), -100.0).value == 8.0


def oscillating(gradients):
    learned = LearnedBits(4.1)
    for gradient in gradients:  # 5 -> 4 -> 5 -> 4 bits
        learned = step(learned, gradient)
    return learned


def test_oscillation_ends_at_the_upper_bits():
    assert not oscillating([0.2, -0.2]).settle(3, lambda bits: True).frozen
    settled = oscillating([0.2, -0.2, 0.2]).settle(3, lambda bits: True)
    assert (settled.bits, settled.value, settled.frozen, settled.crossings) == (5, 5.0, True, {4: 3})
    assert step(settled, 3.0) == settled == settled.settle(1, lambda bits: False)


@pytest.mark.parametrize(('budget', 'bits'), [(5, 5), (4, 4), (3, None)])
@pytest.mark.parametrize('gradients', [[0.2, -0.2, 0.2], [0.2, -0.2, 0.2, -0.2]])
def test_oscillation_around_a_budget_ends_within_it_and_above_it_goes_on(gradients, budget, bits):
    settled = oscillating(gradients).settle(3, lambda bits: bits <= budget)
    assert settled.frozen == (bits is not None)
    assert bits is None or settled.value == bits


@pytest.mark.parametrize(('budget', 'bits'), [(5, 5.0), (4, 4.0), (3, 5.0)])
def test_freezing_takes_the_bits_in_use_unless_one_less_meets_the_budget(budget, bits):
    assert LearnedBits(4.3).freeze(lambda bits: bits <= budget).value == bits


def test_going_straight_down_is_no_oscillation():
    learned = LearnedBits(8.0)
    for _ in range(30):
        learned = step(learned, 0.3).settle(2, lambda bits: True)
    assert (learned.value, learned.frozen) == (2.0, False)
    assert learned.crossings == {k: 1 for k in range(2, 8)}


@given(st.lists(st.floats(-4, 4), max_size=40))
def test_crossings_add_up_to_where_the_bits_are(gradients):
    learned = LearnedBits(6.0)
    for gradient in gradients:
        learned = step(learned, gradient)
    odd = {k for k, count in learned.crossings.items() if count % 2}
    assert odd == set(range(min(6, learned.bits), max(6, learned.bits)))


def test_cost_is_the_product_of_bits_and_its_gradient_the_difference():
    bits = {'weight': 5, 'activation': 6}
    cost = relative_cost(bits, W8A8)
    assert cost == 30 / 64
    gradient = cost_gradient(bits, W8A8, target=0.0)
    for kind in bits:
        one_less = relative_cost({**bits, kind: bits[kind] - 1}, W8A8)
        assert gradient[kind] == pytest.approx(cost - one_less)
    assert relative_cost({'weight': 2}, {'weight': 8}) == 0.25


def test_no_pressure_once_the_target_is_met():
    assert any(cost_gradient({'weight': 4, 'activation': 5}, W8A8, target=0.25).values())
    assert not any(cost_gradient({'weight': 4, 'activation': 4}, W8A8, target=0.25).values())


def test_layers_with_a_role_and_rules_that_give_bits_stay_out(tiny_retinanet):
    rules = [
        dict(name='neck.*', weight=dict(bits=8)),  # the main bits: still a wish of its own
        dict(name='backbone.layer1.*', activation=dict(per_level=False)),
        dict(type='Conv2d', name='backbone.layer2.*', skip=True),
    ]
    model = quantize_model(MODELS.build(tiny_retinanet), dict(preset='w8a8', rules=rules))
    found = participants(model)
    assert not any(name.startswith('neck') for name in found['weight'])
    assert any(name.startswith('neck') for name in found['activation'])
    assert 'backbone.layer1.0.conv1.input_quantizer' in found['activation']
    both = [*found['weight'], *found['activation']]
    for name in ('backbone.conv1', 'bbox_head.retina_cls', 'bbox_head.retina_reg', 'backbone.layer2'):
        assert not any(each.startswith(f'{name}.') for each in both)


def test_full_precision_activations_leave_the_weights_to_learn(tiny_retinanet):
    assert list(participants(quantize_model(MODELS.build(tiny_retinanet), 'w4a32'))) == ['weight']


def test_learned_bits_are_those_of_a_recipe_with_these_bits(tiny_retinanet):
    model = quantize_model(MODELS.build(tiny_retinanet), 'w8a8')
    change_bits(model, participants(model), {'weight': 3, 'activation': 5})
    recipe = dict(preset='w8a8', weight=dict(bits=3), activation=dict(bits=5))
    same = quantize_model(MODELS.build(tiny_retinanet), recipe)
    same.load_state_dict(model.state_dict())
    assert {name: found.bits for name, found in quantizers(model)} == {n: f.bits for n, f in quantizers(same)}


def test_participants_do_not_change_with_the_bits(tiny_retinanet):
    model = quantize_model(MODELS.build(tiny_retinanet), 'w8a8')
    before = participants(model)
    change_bits(model, before, {'weight': 3, 'activation': 5})
    assert participants(model) == before
    steps = [model.get_submodule(name).step_bits for name in before['weight']]
    assert torch.cat(steps).unique().tolist() == [3]
