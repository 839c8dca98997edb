"""Set the initial steps from a few batches, in full precision."""

from typing import Any, Callable, Iterable, List, Optional

import torch
from torch import nn

from mmacs.quantization.convert import quantizers
from mmacs.quantization.layers import QuantizedLayer
from mmacs.quantization.quantizers import Quantizer
from mmacs.utils.errors import MmacsError


@torch.no_grad()
def calibrate(model: nn.Module, batches: Iterable[Any], forward: Optional[Callable[[Any], Any]] = None) -> List[str]:
    """Initialise quantizers that have no steps: weights' from the weights, inputs' from the inputs in ``batches``.

    The model runs in eval mode, where it is not calibrated yet in full precision, and is left in the modes it was in.
    Nothing but the quantizers' steps and flags changes, and if a batch fails nothing does.

    Args:
        model (nn.Module): A model converted by :func:`~.convert.quantize_model`, with its trained weights.
        batches (Iterable): What to run; a handful of batches is enough.
        forward (Callable, optional): Runs the model on one batch; defaults to ``model(batch)``.

    Returns:
        List[str]: Names of input quantizers whose layers did not run, and so have no step yet.

    Raises:
        MmacsError: If ``batches`` is one tensor or empty, or a layer meets NaN or Inf.
    """
    if isinstance(batches, torch.Tensor):  # its rows would be taken for batches
        raise MmacsError('calibrate takes a list of batches, got one tensor: write calibrate(model, [images])')
    forward = forward or model
    uninitialized: List[Quantizer] = [found for _, found in quantizers(model) if not found.is_initialized()]
    modes = {module: module.training for module in model.modules()}
    model.eval()
    for quantizer in uninitialized:
        quantizer.start_observing()
    try:
        empty = True
        for batch in batches:
            forward(batch)
            empty = False
        if empty:
            raise MmacsError('calibrate needs at least one batch')
        for layer in model.modules():  # also of layers that the batches did not reach
            if isinstance(layer, QuantizedLayer):
                layer.weight_quantizer(layer.weight_to_quantize())
        for quantizer in uninitialized:
            quantizer.finish_observing()
    finally:
        for quantizer in uninitialized:
            quantizer.forget_observations()
        for module, training in modes.items():
            module.training = training
    return [quantizer.name for quantizer in uninitialized if not quantizer.is_initialized()]
