"""The integers of the simulation that was trained, each of its layers fed those of the reference."""

from contextlib import ExitStack, contextmanager
from typing import Any, Dict, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from mmacs.deploy.modules.activation import Quantize
from mmacs.quantization import quantizers
from mmacs.quantization.quantizers import Quantizer


@contextmanager
def simulated_integers(
    simulation: nn.Module, reference: nn.Module, integers: Mapping[str, Tensor]
) -> Iterator[Dict[str, np.ndarray]]:
    """Have the quantizers of a simulation write down their integers, and return those of the reference.

    One forward is made in the body. So differences don't add up from layer to layer, as in a graph that is cut.

    Args:
        simulation (nn.Module): A quantized model, or a module that holds one.
        reference (nn.Module): What :func:`~..reference.reference_model` made of it, or a module that holds that.
        integers (Mapping[str, Tensor]): The reference's, by ``<quantizer>#<call>``, of the same images.

    Yields:
        Dict[str, np.ndarray]: The simulation's, under the same names.
    """
    found: Dict[str, np.ndarray] = {}
    modules = {module.name: module for module in reference.modules() if isinstance(module, Quantize)}
    calls: Dict[str, int] = {}

    def hook(quantizer: Quantizer, inputs: Any, output: Tensor) -> Tensor:
        name, call = quantizer.name, calls.get(quantizer.name, 0)
        calls[name] = call + 1
        if output.numel() == 0:
            return output
        module = modules[name]
        level = call if module.num_levels > 1 else 0
        channels_first = quantizer.num_channels > 1
        values = output.transpose(0, 1) if channels_first else output
        step, zero_point = module.step(level, values), module.zero_point(level)
        if f'{name}#{call}' not in integers:  # rounded in floats
            return output
        given = integers[f'{name}#{call}'].to(torch.int64)
        found[f'{name}#{call}'] = (torch.round(values / step).to(torch.int64) + zero_point).numpy()
        fed = (given - zero_point) * step
        return fed.transpose(0, 1) if channels_first else fed

    with ExitStack() as stack:
        for _, quantizer in quantizers(simulation):
            if quantizer.name in modules:
                stack.callback(quantizer.register_forward_hook(hook).remove)
        yield found
