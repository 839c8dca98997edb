import itertools
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmacs.quantization import Recipe, quantize_model
from mmacs.quantization.analysis.bit_widths import bit_costs, choose, recipe_with_bits, size_costs, smooth_drops, solve
from mmacs.quantization.analysis.cost import model_bytes
from mmacs.quantization.analysis.sensitivity import layers_to_choose
from mmacs.utils.errors import MmacsError

RULES = [dict(name='3', activation=None), dict(name='4', skip=True)]


def net(recipe=None):
    layers = [nn.Linear(4, 6), nn.Linear(6, 10), nn.Linear(10, 10), nn.Linear(10, 8), nn.Linear(8, 8), nn.Linear(8, 2)]
    return quantize_model(nn.Sequential(*layers), recipe or dict(preset='w4a4', rules=RULES))


@st.composite
def knapsacks(draw):
    amounts = st.integers(0, 50)
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    costs = [draw(st.lists(amounts, min_size=size, max_size=size)) for size in sizes]
    losses = [draw(st.lists(amounts, min_size=size, max_size=size)) for size in sizes]
    return costs, [[loss / 1000 for loss in row] for row in losses], draw(st.integers(0, 150))


@settings(max_examples=150, deadline=None)
@given(knapsacks())
def test_no_choice_is_better(problem):
    costs, losses, budget = problem

    def total(rows, choice):
        return sum(row[index] for row, index in zip(rows, choice))

    every = list(itertools.product(*(range(len(row)) for row in costs)))
    feasible = [choice for choice in every if total(costs, choice) <= budget]
    if not feasible:
        smallest = min(total(costs, choice) for choice in every)
        with pytest.raises(MmacsError, match=f'smallest feasible is {smallest}$'):
            solve(costs, losses, budget)
        return
    chosen = solve(costs, losses, budget)
    assert total(costs, chosen) <= budget
    assert total(losses, chosen) == pytest.approx(min(total(losses, choice) for choice in feasible), abs=1e-9)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=6))
def test_smoothed_drops_fall_with_the_bits(drops):
    smooth = smooth_drops(drops)
    assert all(a >= b for a, b in zip(smooth, smooth[1:])) and smooth[-1] >= 0
    assert smooth_drops(smooth) == pytest.approx(smooth)


def test_noise_is_averaged_not_spread():
    assert smooth_drops([0.5, 0.1, 0.3, -0.2]) == pytest.approx([0.5, 0.2, 0.2, 0])


def test_equal_drops_leave_the_finest_bits_that_fit():
    costs = {name: {2: 2.0, 4: 4.0, 8: 8.0} for name in 'ab'}
    drops = {'a': {2: 0.0, 4: 0.0, 8: 0.0}, 'b': {2: 0.1, 4: 0.001, 8: 0.0}}
    assert choose(costs, drops, 1.0, 17.0) == {'a': 8, 'b': 8}
    assert choose(costs, drops, 1.0, 13.0) == {'a': 4, 'b': 8}
    assert choose(costs, drops, 1.0, 9.0) == {'a': 4, 'b': 4}


@pytest.mark.parametrize(('budget', 'bits'), [(46.0, [15, 15, 16]), (48.0, [16] * 3), (44.9, [14, 15, 15])])
def test_ties_between_many_bits_go_to_the_finest(budget, bits):
    costs = {name: {each: each / 3 for each in range(2, 17)} for name in 'abc'}
    drops = {name: {each: 0.5 * (each < 8) for each in range(2, 17)} for name in 'abc'}
    drops['c'][2] = 100.0  # what the solver's tolerances are relative to
    assert sorted(choose(costs, drops, 0.0, budget / 3).values()) == bits


def test_a_budget_below_the_smallest_by_rounding_errors_is_met():
    assert solve([[3.0, 5.0]] * 10, [[1.0, 0.0]] * 10, 30 * (1 - 5e-10)) == [0] * 10


def test_costs_are_the_mean_bits_and_the_size_of_the_model_so_built():
    model = net()
    layers = layers_to_choose(model)
    assert list(layers) == ['1', '2', '3']
    chosen = {'1': 2, '2': 8, '3': 3}
    built = net(recipe_with_bits(model.recipe, chosen, layers))
    assert [built[i].weight_quantizer.bits for i in (0, 1, 2, 3, 5)] == [8, 2, 8, 3, 8]
    assert [built[i].input_quantizer.bits for i in (0, 1, 2, 5)] == [8, 2, 8, 8]
    assert isinstance(built[3].input_quantizer, nn.Identity) and type(built[4]) is nn.Linear

    costs, rest = size_costs(model, list(layers), [2, 3, 8])
    assert rest + sum(costs[name][bits] for name, bits in chosen.items()) == pytest.approx(model_bytes(built)[0] / 1e6)
    costs, rest = bit_costs(model, list(layers), [2, 3, 8])
    mean = (24 * 8 + 60 * 2 + 100 * 8 + 80 * 3 + 16 * 8) / (24 + 60 + 100 + 80 + 16)
    assert rest + sum(costs[name][bits] for name, bits in chosen.items()) == pytest.approx(mean)


def test_the_recipe_file_says_what_was_chosen(tmp_path):
    model = net()
    recipe = recipe_with_bits(model.recipe, {'1': 3, '2': 2}, layers_to_choose(model))
    (tmp_path / 'recipe.json').write_text(json.dumps(recipe))
    again = net(str(tmp_path / 'recipe.json'))
    assert (again[1].weight_quantizer.bits, again[2].input_quantizer.bits) == (3, 2)
    assert model.recipe['rules'] == RULES
    assert Recipe(recipe).preset == 'w4a4'
    assert torch.equal(again[1].weight_quantizer.step_bits, torch.tensor([3], dtype=torch.uint8))


@pytest.mark.parametrize('contributions', [bit_costs, size_costs])
def test_a_shared_weight_is_paid_for_once(contributions):
    linears = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    linears[2].weight = linears[1].weight
    model = quantize_model(linears, 'w4a4')
    costs, rest = contributions(model, ['1', '2'], [2, 8])
    assert costs['2'] == {2: 0, 8: 0} and costs['1'][8] == 4 * costs['1'][2] > 0
    whole = model_bytes(model)[0] / 1e6 if contributions is size_costs else (8 + 4 + 8) / 3
    assert rest + costs['1'][2] * 2 == pytest.approx(whole)


def test_activations_that_the_recipe_tells_apart_keep_their_bits():
    model = net('w4a8')
    recipe = recipe_with_bits(model.recipe, {'1': 2}, layers_to_choose(model))
    assert recipe['rules'] == [{'name': '1', 'weight': {'bits': 2}}]
    assert recipe_with_bits({}, {'1': 2}, layers_to_choose(net('w4a4')))['rules'] == [
        {'name': '1', 'weight': {'bits': 2}, 'activation': {'bits': 2}}
    ]
