"""Layers that are applied several times in one forward, as a dense head's are once per pyramid level.

Forward hooks mark where a forward of the model, and of the head within it, begins and ends. In between, calls are
counted, so that each level finds its own activation step, and the fake-quantized weight is computed once. Both need
marks: MMDetection calls the head's ``forward`` past its hooks in one mode, and the head alone is called by scorers.
"""

from typing import Any, Iterator

from torch import nn

from mmacs.quantization.layers import QuantizedLayer
from mmacs.quantization.quantizers import Quantizer


def num_pyramid_levels(head: nn.Module) -> int:
    """Number of pyramid levels that a dense head applies its layers to, 1 for any other module."""
    return getattr(getattr(head, 'prior_generator', None), 'num_levels', 1)


def mark_forward(owner: nn.Module) -> None:
    """Have a module mark the begin and end of its forward for the layers inside it, once however often called."""
    if _begin not in owner._forward_pre_hooks.values():
        owner.register_forward_pre_hook(_begin)
        owner.register_forward_hook(_end, always_call=True)


def _shared_layers(owner: nn.Module) -> Iterator[QuantizedLayer]:
    return (module for module in owner.modules() if isinstance(module, QuantizedLayer) and module.shared)


def _begin(owner: nn.Module, args: Any) -> None:
    for layer in _shared_layers(owner):
        layer.weights_of_this_forward = {}
        if isinstance(layer.input_quantizer, Quantizer):
            layer.input_quantizer.calls = 0


def _end(owner: nn.Module, args: Any, output: Any) -> None:
    for layer in _shared_layers(owner):
        layer.weights_of_this_forward = None
