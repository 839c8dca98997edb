"""Set the initial steps from a few batches, in full precision."""

from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmacs.quantization.convert import quantizers
from mmacs.quantization.layers import QuantizedLayer
from mmacs.quantization.output_error import OutputError, together
from mmacs.quantization.quantizers import Quantizer, source_of
from mmacs.quantization.width import at_each_width
from mmacs.utils.errors import MmacsError

_STATISTICS = ('running_mean', 'running_var')


def untrained_batch_norms(model: nn.Module) -> List[nn.Module]:
    """Returns each BatchNorm that normalises by the batch in training, and whose statistics are still the initial ones.

    The model is left in train mode.
    """
    model.train()
    found = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    return [
        module
        for module in found
        if module.running_mean is not None and not module.running_mean.any() and (module.running_var == 1).all()
    ]


@torch.no_grad()
def calibrate(model: nn.Module, batches: Iterable[Any], forward: Optional[Callable[[Any], Any]] = None) -> List[str]:
    """Initialise quantizers that have no steps: weights' from the weights, inputs' from the inputs in ``batches``.

    A model with several bit-widths gets the steps of each.
    The model runs in eval mode, where it is not calibrated yet in full precision, and is left in the modes it was in.
    A BatchNorm that was never trained, and will be, normalises by the batch, as it does when training starts: by its
    initial statistics (mean 0, variance 1) it would show its successors values of another magnitude.
    Nothing but the quantizers' ranges and flags changes, and if a batch fails nothing does.

    Args:
        model (nn.Module): A model converted by :func:`~.convert.quantize_model`, with its trained weights.
        batches (Iterable): What to run; a handful of batches is enough.
        forward (Callable, optional): Runs the model on one batch; defaults to ``model(batch)``.

    Returns:
        List[str]: Names of input quantizers whose layers did not run, and so have no step yet.

    Raises:
        MmacsError: If ``batches`` is one tensor or empty, a layer meets NaN or Inf, or a batch gives a BatchNorm that
            was never trained a single value for each channel.
    """
    if isinstance(batches, torch.Tensor):  # its rows would be taken for batches
        raise MmacsError('calibrate takes a list of batches, got one tensor: write calibrate(model, [images])')
    forward = forward or model
    uninitialized: List[Quantizer] = [found for _, found in quantizers(model) if not found.is_initialized()]
    modes = {module: module.training for module in model.modules()}
    untrained = untrained_batch_norms(model)
    model.eval()
    for quantizer in uninitialized:
        at_each_width(quantizer, quantizer.start_observing)
    statistics = [(module, name, module._buffers[name]) for module in untrained for name in _STATISTICS]
    for module, name, _ in statistics:
        module._buffers[name] = None  # it then takes those of the batch, in eval mode too
    refusals = [module.register_forward_pre_hook(_require_several_values) for module in untrained]
    watched: Dict[Quantizer, List[OutputError]] = {}
    for layer in model.modules():
        if _starts_at_outputs(layer):
            watched.setdefault(source_of(layer.input_quantizer), []).append(OutputError(layer))
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
        for quantizer, outputs in watched.items():
            quantizer.per_input = together(outputs)
        for quantizer in uninitialized:
            at_each_width(quantizer, quantizer.finish_observing)
    finally:
        for module, name, value in statistics:
            module._buffers[name] = value
        for refusal in refusals:
            refusal.remove()
        for quantizer, outputs in watched.items():
            for each in outputs:
                each.stop()
            quantizer.per_input = None
        for quantizer in uninitialized:
            at_each_width(quantizer, quantizer.forget_observations)
        for module, training in modes.items():
            module.training = training
    return [quantizer.name for quantizer in uninitialized if not quantizer.is_initialized()]


def _require_several_values(module: nn.Module, inputs: Tuple[torch.Tensor, ...]) -> None:
    """Refuse a batch that has no variance."""
    if inputs[0].numel() == inputs[0].shape[1]:
        raise MmacsError(
            f'a {type(module).__name__} that was never trained normalises by the batch when it is calibrated, and one '
            f'image gives it a single value for each channel: calibrate on batches of several images, or on larger ones'
        )


def _starts_at_outputs(layer: nn.Module) -> bool:
    """Whether the range of a layer's only input starts where its outputs have the least error."""
    if not isinstance(layer, QuantizedLayer) or len(layer.inputs) > 1:
        return False
    quantizer = source_of(layer.input_quantizer)
    return hasattr(quantizer, 'per_input') and quantizer.observing
