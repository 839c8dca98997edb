"""Levels of weights whose errors cancel where inputs are correlated: our reading of BiTAT (arXiv 2207.01394)."""

from typing import Any, Callable, Dict, Iterable

import torch
from torch import Tensor, nn

from mmacs.quantization.convert import disabled
from mmacs.quantization.layers.base import QuantizedLayer
from mmacs.quantization.post_training.gpfq import Forward, calls_of
from mmacs.quantization.post_training.neuron_inputs import Products, run_to
from mmacs.quantization.post_training.neuron_weights import rows_and_levels
from mmacs.utils.errors import MmacsError

SWEEPS = 4
INSIDE = 0.45  # of a step from its level at most, which is within the bin


def decorrelated_levels(weight: Tensor, gram: Tensor, cross: Tensor, quantize: Callable[[Tensor], Tensor]) -> Tensor:
    """Levels q of neurons that lower ``|| X w - Y q ||`` from that of the nearest levels as far as single weights can.

    X and Y are a layer's inputs in full precision and quantized. In the orthonormal basis V in which the quantized
    inputs are not correlated, ``Y^T Y = V diag(l) V^T``, that is ``sum_i l_i (v_i^T (q - w*))^2`` and a constant, w*
    being the weights of least error: disentangled coordinates, each with its importance l_i. Levels are those of
    weights, though, so one after the other, from the one that reads the most energy, gets the level of least sum given
    all others, in up to four rounds.

    Args:
        weight (Tensor): G groups of neurons that read the same inputs, float, shape (G, C, N).
        gram (Tensor): ``Y^T Y`` of each group, float, shape (G, N, N).
        cross (Tensor): ``Y^T X`` of each group, float, shape (G, N, N).
        quantize (Callable): Rounds values (G, C, n) to the nearest levels of their neurons.

    Returns:
        Tensor: Levels, of the dtype and shape of ``weight``; those of weights whose input is zero are the nearest.
    """
    levels = quantize(weight)
    left = weight @ cross.transpose(1, 2) - levels @ gram
    energy = gram.diagonal(dim1=1, dim2=2)
    order = energy.sum(0).argsort(descending=True, stable=True).tolist()
    for _ in range(SWEEPS):
        before = levels.clone()
        for t in order:
            here, own = levels[:, :, t : t + 1], energy[:, t].view(-1, 1, 1)
            moved = torch.where(own > 0, quantize(here + left[:, :, t : t + 1] / own.clamp_min(1e-30)), here) - here
            if moved.any():
                left -= moved * gram[:, t : t + 1]
                here += moved
        if torch.equal(levels, before):
            break
    return levels


@torch.no_grad()
def decorrelate(
    model: nn.Module, layers: Dict[str, QuantizedLayer], batches: Iterable[Any], forward: Forward
) -> Dict[str, float]:
    """Moves weights into the bins of their :func:`decorrelated_levels`, in place, layer after layer.

    A weight whose level changes comes to lie beside the bin that it leaves, so that training can take it back; others
    stay as they are.

    Args:
        model (nn.Module): The calibrated model in eval mode.
        layers (Dict[str, QuantizedLayer]): Some of :func:`~.gpfq.layers_to_follow`.
        batches (Iterable): What to run, at least one; each comes once for each layer.
        forward (Callable): Runs a model on a batch.

    Returns:
        Dict[str, float]: Share of weights whose level changed, by layer, in the order in which they run.

    Raises:
        MmacsError: If a quantizer rounds weights elsewhere than to the nearest level.
    """
    changed = {}
    calls = calls_of(layers, lambda: forward(model, next(iter(batches))))
    for name, count in calls.items():
        layer, products = layers[name], Products()
        for batch in batches:
            quantized = run_to(layer, lambda batch=batch: forward(model, batch), count)
            with disabled(layer):
                exact = run_to(layer, lambda batch=batch: forward(model, batch), count)
            products.add_calls(layer, quantized, exact)
        if products.gram is not None:  # else no batch has brought the layer anything, as a mask head without boxes
            changed[name] = _move(name, layer, products)
    return changed


def _move(name: str, layer: QuantizedLayer, products: Products) -> float:
    weight = layer.weight
    rows, step, nearest = rows_and_levels(layer)
    before, after = nearest(rows), decorrelated_levels(rows, products.gram, products.cross, nearest)
    is_moved = (after - before).abs() > step / 2
    beside = after + (before - after).sign() * (rows - before).abs().minimum(INSIDE * step)
    original = weight.clone()
    weight.copy_(torch.where(is_moved, beside, rows).view_as(weight))
    found = layer.quantized_weight().double().view_as(after)
    if ((found - after).abs() > step / 10).any():
        weight.copy_(original)
        raise MmacsError(
            f'weights that are decorrelated need a quantizer that rounds them to the nearest level, and '
            f'{type(layer.weight_quantizer).__name__} of {name} does not: take weight=dict(type="LSQ"), or '
            f'decorrelate=False'
        )
    return is_moved.double().mean().item()
