"""The integers of the simulation that was trained, each of its layers fed those of the reference."""

from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Dict, Iterator, Mapping, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from mmacs.deploy.modules.activation import Quantize
from mmacs.quantization import quantizers
from mmacs.quantization.layers.base import shadowed
from mmacs.quantization.quantizers import Quantizer
from mmacs.quantization.quantizers.kept import Kept


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
    read_by_several: Dict[Tuple[str, int], Kept] = {}  # the last tensor of each, and what was made of it

    def quantized(quantizer: Quantizer, x: Tensor, level: int) -> Tensor:
        kept = read_by_several.get((quantizer.name, level))
        if kept is not None and kept.is_of(x):
            return kept.y
        y = called(quantizer, x, level)
        if max(quantizer.reads) > 1:
            read_by_several[quantizer.name, level] = Kept(x, y, 0)
        return y

    def called(quantizer: Quantizer, x: Tensor, level: int) -> Tensor:
        output = type(quantizer)._quantized(quantizer, x, level)
        call = level if quantizer.num_levels > 1 else calls.get(quantizer.name, 0)
        calls[quantizer.name] = call + 1
        name = f'{quantizer.name}#{call}'
        if name not in integers:
            return output  # an empty tensor, or integers that files do not store
        channels_first = quantizer.num_channels > 1
        values = output.transpose(0, 1) if channels_first else output
        module = modules[quantizer.name]
        step, zero_point = module.step(level, values), module.zero_point(level)
        found[name] = (torch.round(values / step).to(torch.int64) + zero_point).numpy()
        fed = (integers[name].to(torch.int64) - zero_point) * step
        return fed.transpose(0, 1) if channels_first else fed

    with ExitStack() as stack:
        for _, quantizer in quantizers(simulation):
            if quantizer.name in modules:
                stack.enter_context(shadowed(quantizer, _quantized=partial(quantized, quantizer)))
        yield found
