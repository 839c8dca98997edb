"""Choosing a bit-width per layer under a budget: a multiple-choice knapsack, solved exactly."""

import math
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
from rich.table import Table
from scipy.optimize import Bounds, LinearConstraint, isotonic_regression, milp
from scipy.sparse import csr_array
from torch import nn

from mmacs.quantization.analysis.cost import layer_bits, model_bytes, quantized_weights
from mmacs.quantization.quantizers import Quantizer
from mmacs.quantization.quantizers.base import KINDS
from mmacs.utils.errors import MmacsError

Costs = Dict[str, Dict[int, float]]

_SCALE = 1e4  # of the largest coefficient: the solver's tolerances are absolute, about 1e-6
_ROUNDING = 1e-9  # of a budget: what sums of floats may exceed it by


def smooth_drops(drops: Sequence[float]) -> List[float]:
    """Returns the closest drops (least squares) that are not negative and do not grow with the bits.

    Drops measured on few images are noisy: more bits may seem to do harm, and quantization good.

    Args:
        drops (Sequence[float]): Measured drops of a metric, by ascending bit-width.

    Returns:
        List[float]: As many drops, descending to no less than 0.
    """
    return isotonic_regression(drops, increasing=False).x.clip(min=0).tolist()


def solve(costs: Sequence[Sequence[float]], losses: Sequence[Sequence[float]], budget: float) -> List[int]:
    """Choose one option of each group so that the sum of losses is smallest and the sum of costs within the budget.

    Args:
        costs (Sequence[Sequence[float]]): Cost, at least 0, of each option of each group.
        losses (Sequence[Sequence[float]]): Loss, at least 0, of the same options.
        budget (float): Largest sum of costs, in their unit; kept to within a millionth.

    Returns:
        List[int]: Index of the chosen option, per group.

    Raises:
        MmacsError: If even the cheapest options exceed the budget; the message has the smallest feasible one.
    """
    smallest = sum(min(options) for options in costs)
    if smallest > budget * (1 + _ROUNDING):
        rounded = math.ceil(smallest * 1000) / 1000
        raise MmacsError(f'no choice of bit-widths fits a budget of {budget:g}: the smallest feasible is {rounded:g}')
    groups = np.repeat(np.arange(len(costs)), [len(options) for options in costs])
    flat_costs, flat_losses = (np.concatenate([np.asarray(row, float) for row in rows]) for rows in (costs, losses))
    cost_unit, loss_unit = (_SCALE / (values.max() or 1.0) for values in (flat_costs, flat_losses))
    one_each = csr_array((np.ones(len(groups)), (groups, np.arange(len(groups)))))
    result = milp(
        flat_losses * loss_unit,
        integrality=np.ones(len(groups)),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(flat_costs[None] * cost_unit, -np.inf, max(budget, smallest) * cost_unit),
        ],
        options={'mip_rel_gap': 0},
    )
    assert result.success, result.message
    chosen = np.split(result.x, np.flatnonzero(np.diff(groups)) + 1)
    return [int(options.argmax()) for options in chosen]


def choose(costs: Costs, drops: Dict[str, Dict[int, float]], fixed_cost: float, budget: float) -> Dict[str, int]:
    """Choose a bit-width for each layer: the smallest predicted total drop, and of equal ones the finest bits.

    Args:
        costs (Dict[str, Dict[int, float]]): Cost of each bit-width of each layer.
        drops (Dict[str, Dict[int, float]]): Drop of the metric at each of them, see :func:`smooth_drops`.
        fixed_cost (float): Cost of everything else.
        budget (float): Largest total cost.

    Returns:
        Dict[str, int]: Bit-width by layer.

    Raises:
        MmacsError: If the budget can't be met.
    """
    options = [sorted(costs[layer]) for layer in costs]
    losses = [[drops[layer][bits] for bits in each] for layer, each in zip(costs, options)]
    cost_rows = [[costs[layer][bits] for bits in each] for layer, each in zip(costs, options)]
    indices = solve([*cost_rows, [fixed_cost]], [*losses, [0.0]], budget)
    chosen = {layer: each[index] for layer, each, index in zip(costs, options, indices)}
    return _refined(costs, drops, chosen, budget - fixed_cost + _ROUNDING * budget)


def _refined(costs: Costs, drops: Dict[str, Dict[int, float]], chosen: Dict[str, int], budget: float) -> Dict[str, int]:
    """Spend what a choice leaves of the budget where drops are equal: on the coarsest bits first, layer by layer."""
    equal = {
        layer: sorted(other for other in costs[layer] if drops[layer][other] <= drops[layer][bits])
        for layer, bits in chosen.items()
    }
    refined = {layer: options[0] for layer, options in equal.items()}  # the solver's own taste in ties is undone
    left = budget - sum(costs[layer][bits] for layer, bits in refined.items())
    for bits in sorted({bits for options in equal.values() for bits in options}):
        for layer, before in refined.items():
            extra = costs[layer].get(bits, 0.0) - costs[layer][before]
            if bits in equal[layer] and bits > before and extra <= left:
                refined[layer] = bits
                left -= extra
    return refined


def bit_costs(model: nn.Module, layers: Sequence[str], candidates: Sequence[int]) -> Tuple[Costs, float]:
    """Returns what layers contribute to the mean bit-width of all quantized weights of a model.

    Args:
        model (nn.Module): A converted model.
        layers (Sequence[str]): Layers whose bit-width is to be chosen, each with a quantized weight.
        candidates (Sequence[int]): Bit-widths.

    Returns:
        Tuple[Dict[str, Dict[int, float]], float]: Bits by layer and bit-width, and those of all other layers. Of
        layers that share a weight the first pays for it.
    """
    found = quantized_weights(model)
    weights = {name: layer.weight_to_quantize().numel() for name, layer in found.items()}
    total = sum(weights.values())
    costs = {layer: {bits: weights.get(layer, 0) * bits / total for bits in candidates} for layer in layers}
    others = (weights[name] * layer_bits(layer)[0] for name, layer in found.items() if name not in costs)
    return costs, sum(others) / total


def size_costs(model: nn.Module, layers: Sequence[str], candidates: Sequence[int]) -> Tuple[Costs, float]:
    """Returns what layers contribute to the size of a model, in MB of 10^6 bytes; see :func:`bit_costs`."""
    found = quantized_weights(model)
    costs = {layer: dict.fromkeys(candidates, 0.0) for layer in layers}
    rest = model_bytes(model)[0]
    for name in costs.keys() & found.keys():
        bytes_per_bit = found[name].weight_to_quantize().numel() / 8
        rest -= bytes_per_bit * layer_bits(found[name])[0]
        costs[name] = {bits: bytes_per_bit * bits / 1e6 for bits in candidates}
    return costs, rest / 1e6


def recipe_with_bits(recipe: Dict[str, Any], bits: Dict[str, int], free: Dict[str, List[Quantizer]]) -> Dict[str, Any]:
    """Returns a recipe with rules added that set bit-widths of layers: of the weight, or of weight and inputs.

    Args:
        recipe (dict): The recipe to start from; it is left as it is.
        bits (Dict[str, int]): Bit-width by layer name.
        free (Dict[str, List[Quantizer]]): What has that bit-width, see :func:`~.sensitivity.layers_to_choose`.

    Returns:
        dict: A recipe, see :class:`~.recipe.Recipe`, that JSON can hold.
    """
    rules = []
    for name, chosen in bits.items():
        kinds = {quantizer.kind for quantizer in free[name]}
        rules.append({'name': name, **{kind: {'bits': chosen} for kind in KINDS if kind in kinds}})
    return {'preset': 'w4a4', **recipe, 'rules': [*(recipe.get('rules') or []), *rules]}


def choice_table(model: nn.Module, chosen: Dict[str, int], drops: Dict[str, Dict[int, float]]) -> Table:
    """Returns the table of the chosen bit-widths: weights of each layer, drop at each bit-width, choice."""
    candidates = sorted(next(iter(drops.values())))
    table = Table(box=None, pad_edge=False, header_style='bold')
    table.add_column('layer', overflow='fold')
    for heading in ('weights', *(f'drop at {bits}' for bits in candidates), 'bits'):
        table.add_column(heading, justify='right')
    for name, bits in chosen.items():
        cells = [f'{drops[name][candidate]:.4f}' for candidate in candidates]
        table.add_row(name, f'{model.get_submodule(name).weight_to_quantize().numel():,}', *cells, str(bits))
    return table
