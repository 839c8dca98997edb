"""The weights of a layer by neuron, and the levels that they are rounded to."""

from typing import Callable, Tuple

from torch import Tensor

from mmacs.quantization.layers import QuantizedLayer


def rows_and_levels(layer: QuantizedLayer) -> Tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    """Returns the weights of a layer's neurons, and how they are rounded.

    Args:
        layer (QuantizedLayer): Convolution or linear map, whose weight has calibrated, evenly spaced levels.

    Returns:
        Tuple[Tensor, Tensor, Callable]: The weights, float64, shape (G, C, N) for G groups of C neurons with N weights
        each; the steps of the neurons, float64, shape (G, C, 1); and what maps values (G, C, n) to the nearest levels
        of their neurons.
    """
    weight = layer.weight
    step, offset, low, high = (
        part.double() if isinstance(part, Tensor) else part for part in layer.weight_quantizer.grid()
    )
    groups = getattr(layer, 'groups', 1)
    offset = step.new_zeros(1) if offset is None else offset
    step, offset = (part.expand(len(weight)).reshape(groups, -1, 1) for part in (step, offset))

    def nearest(values: Tensor) -> Tensor:
        return ((values - offset) / step).round().clamp(low, high) * step + offset

    return weight.double().reshape(groups, len(weight) // groups, -1), step, nearest
