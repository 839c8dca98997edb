"""Set the initial steps from a few batches, in full precision."""

from typing import Any, Callable, Iterable, List, Optional

import torch
from torch import nn

from mmacs.quantization.convert import quantizers
from mmacs.quantization.layers import QuantizedLayer
from mmacs.quantization.quantizers import Quantizer


@torch.no_grad()
def calibrate(model: nn.Module, batches: Iterable[Any], forward: Optional[Callable[[Any], Any]] = None) -> List[str]:
    """Initialise every quantizer: weights' from the weights, inputs' from the layer inputs in ``batches``.

    The model runs in eval mode and full precision and is left in the modes it was in. Nothing but the quantizers'
    steps and flags changes.

    Args:
        model (nn.Module): A model converted by :func:`~.convert.quantize_model`, with its trained weights.
        batches (Iterable): What to run; a handful of batches is enough.
        forward (Callable, optional): Runs the model on one batch; defaults to ``model(batch)``.

    Returns:
        List[str]: Names of input quantizers whose layers did not run, and so have no step yet.

    Raises:
        MmacsError: If a layer meets NaN or Inf, or negative values at 1 bit.
    """
    forward = forward or model
    modes = {module: module.training for module in model.modules()}
    all_quantizers: List[Quantizer] = [quantizer for _, quantizer in quantizers(model)]
    model.eval()
    for quantizer in all_quantizers:
        quantizer.start_observing()
    try:
        for batch in batches:
            forward(batch)
        for layer in model.modules():  # also of layers that the batches did not reach
            if isinstance(layer, QuantizedLayer):
                layer.weight_quantizer(layer.weight)
    finally:
        for quantizer in all_quantizers:
            quantizer.finish_observing()
        for module, training in modes.items():
            module.training = training
    return [quantizer.name for quantizer in all_quantizers if not quantizer.is_initialized()]
