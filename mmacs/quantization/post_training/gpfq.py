"""GPFQ on a whole network: layer after layer, each on what the layers before it became."""

import copy
from typing import Any, Callable, Dict, Iterable, Iterator

import torch
from torch import Tensor, nn

from mmacs.quantization.convert import quantizers
from mmacs.quantization.layers.base import QuantizedLayer
from mmacs.quantization.layers.convolution import QuantizedConv2d
from mmacs.quantization.layers.linear import QuantizedLinear
from mmacs.quantization.post_training.greedy_path import greedy_path
from mmacs.quantization.post_training.neuron_inputs import Products, run_to
from mmacs.quantization.post_training.neuron_weights import rows_and_levels
from mmacs.quantization.quantizers import Quantizer
from mmacs.utils.errors import MmacsError

Forward = Callable[[nn.Module, Any], Any]
ALIGNED = 0.5  # least correlation of inputs in both networks, of which one is the image of the other


def layers_to_follow(model: nn.Module) -> Dict[str, QuantizedLayer]:
    """Returns the layers whose weights GPFQ can round, by name: convolutions with zero padding and linear maps.

    Others stay as they are, and are rounded to the nearest level.
    """
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, (QuantizedConv2d, QuantizedLinear))
        and isinstance(layer.weight_quantizer, Quantizer)
        and layer.weight_quantizer.uniform
        and not layer.weight_quantizer.replaces_weight
        and (isinstance(layer, nn.Linear) or (layer.padding_mode == 'zeros' and not isinstance(layer.padding, str)))
    }


@torch.no_grad()
def follow_paths(
    model: nn.Module, layers: Dict[str, QuantizedLayer], batches: Iterable[Any], forward: Forward
) -> Iterator[str]:
    """Puts rounded weights in the place of a calibrated model's, by :func:`~.greedy_path.greedy_path`.

    A layer is rounded on its inputs in full precision and in the network whose layers before it are rounded already,
    both of the same images. Where the two are no images of each other, as those of proposals that each network finds
    for itself, on the latter alone. Steps and zero points stay as calibrated. Each layer takes a forward pass of both
    networks, as far as the layer.

    Args:
        model (nn.Module): The calibrated model in eval mode; its weights change, layer by layer.
        layers (Dict[str, QuantizedLayer]): Some of :func:`layers_to_follow`.
        batches (Iterable): What to run, at least one; each comes once for each layer.
        forward (Callable): Runs a model on a batch.

    Yields:
        str: Name of a layer that is rounded, in the order in which they run. Layers that no batch reaches do not come.

    Raises:
        MmacsError: If quantizing would move the rounded weights again.
    """
    reference = copy.deepcopy(model)
    for _, quantizer in quantizers(reference):
        quantizer.enabled = False
    calls = calls_of(layers, lambda: forward(model, next(iter(batches))))
    for name in calls:
        layer, original = layers[name], reference.get_submodule(name)
        products = Products()
        for batch in batches:
            exact = run_to(original, lambda batch=batch: forward(reference, batch), calls[name])
            found = run_to(layer, lambda batch=batch: forward(model, batch), calls[name])
            pairs = zip(found, exact)
            products.add_calls(layer, found, [theirs if _are_aligned(ours, theirs) else ours for ours, theirs in pairs])
        if products.gram is not None:
            _round(name, layer, products)
            yield name


def calls_of(layers: Dict[str, QuantizedLayer], run: Callable[[], Any]) -> Dict[str, int]:
    """Returns how often each layer runs in one forward, in the order in which they first do."""
    found: Dict[str, int] = {}

    def count(name: str) -> Callable[..., None]:
        def add(*arguments: Any) -> None:
            found[name] = found.get(name, 0) + 1

        return add

    handles = [layer.register_forward_hook(count(name)) for name, layer in layers.items()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return found


def _are_aligned(ours: Tensor, theirs: Tensor) -> bool:
    if ours.shape != theirs.shape:
        return False
    product = (ours.float() * theirs.float()).sum()
    return bool(product >= ALIGNED * ours.float().norm() * theirs.float().norm())


def _round(name: str, layer: QuantizedLayer, products: Products) -> None:
    weight = layer.weight
    rows, step, nearest = rows_and_levels(layer)
    rounded = greedy_path(rows, products.gram, products.cross, nearest).view_as(weight).to(weight.dtype)
    weight.copy_(rounded)
    if (layer.quantized_weight() - rounded).abs().max() > 0.1 * step.min():
        raise MmacsError(
            f'GPFQ needs weights that stay where they are rounded to, and {type(layer.weight_quantizer).__name__} of '
            f'{name} moves them: take weight=dict(type="LSQ")'
        )
