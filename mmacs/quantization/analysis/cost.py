"""What a model costs: multiply-accumulates, bit operations and bytes."""

from collections import Counter
from typing import Any, Callable, Dict, Tuple

import torch
from torch import Tensor, nn

from mmacs.quantization.convert import full_precision_state
from mmacs.quantization.layers import QuantizedLayer
from mmacs.quantization.quantizers import Quantizer, source_of
from mmacs.quantization.recipe import FULL_PRECISION_BITS

_BYTES = FULL_PRECISION_BITS / 8


@torch.no_grad()
def count_macs(model: nn.Module, forward: Callable[[], Any]) -> Dict[str, int]:
    """Count the multiply-accumulates of every layer with a weight matrix or kernel, in all its calls.

    Counted are convolutions (transposed and deformable ones too), linear maps and the projections of attention. What
    has no weights (products of queries and keys, resampling of deformable convolutions) and element-wise arithmetic
    such as normalisation is not.

    Args:
        model (nn.Module): Any model, converted or not.
        forward (Callable): Runs the model, on one image for counts per image.

    Returns:
        Dict[str, int]: Multiply-accumulates by layer name, in the model's order, of layers that ran.
    """
    macs: Counter = Counter()
    handles = []
    attentions = {name for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)}
    for name, module in model.named_modules():
        if name in attentions:
            counter = _attention_counter(name, module, macs)
        elif _is_counted(module) and name.rpartition('.')[0] not in attentions:
            counter = _counter(name, macs)
        else:
            continue
        handles.append(module.register_forward_hook(counter, with_kwargs=True))
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return {name: macs[name] for name, _ in model.named_modules() if macs[name]}


def _is_counted(module: nn.Module) -> bool:
    is_convolution = hasattr(module, 'kernel_size') and isinstance(getattr(module, 'weight', None), Tensor)
    return is_convolution or isinstance(module, nn.Linear)


def _counter(name: str, macs: Counter) -> Callable[..., None]:
    def count(layer: nn.Module, args: Tuple[Any, ...], kwargs: Dict[str, Any], output: Tensor) -> None:
        # each output of a convolution, each input of a transposed one, meets the kernels of one channel
        values = [*args, *kwargs.values()][0] if getattr(layer, 'transposed', False) else output
        macs[name] += values.numel() * layer.weight[0].numel()

    return count


def _attention_counter(name: str, attention: nn.MultiheadAttention, macs: Counter) -> Callable[..., None]:
    width = attention.embed_dim

    def count(layer: nn.Module, args: Tuple[Any, ...], kwargs: Dict[str, Any], output: Any) -> None:
        inputs = dict(zip(('query', 'key', 'value'), args), **kwargs)
        macs[name] += sum(inputs[part].numel() for part in ('query', 'key', 'value')) * width
        macs[f'{name}.out_proj'] += inputs['query'].numel() * width

    return count


def layer_bits(layer: nn.Module) -> Tuple[int, int]:
    """Returns the bit-widths of a layer's weight and of its (widest) input, 32 where it computes in full precision."""
    if not isinstance(layer, QuantizedLayer):
        return FULL_PRECISION_BITS, FULL_PRECISION_BITS
    inputs = [getattr(layer, name) for name in layer.inputs]
    return _bits(layer.weight_quantizer), max(map(_bits, inputs))


def _bits(quantizer: nn.Module) -> int:
    return getattr(source_of(quantizer), 'bits', FULL_PRECISION_BITS)


def bit_operations(model: nn.Module, macs: Dict[str, int]) -> Dict[str, int]:
    """Returns the bit operations by layer: multiply-accumulates x bits of the weight x bits of the input.

    Args:
        model (nn.Module): The model that was counted.
        macs (Dict[str, int]): See :func:`count_macs`.

    Returns:
        Dict[str, int]: Bit operations, with 32 bits where a layer computes in full precision.
    """
    operations = {}
    for name, count in macs.items():
        weight_bits, input_bits = layer_bits(model.get_submodule(name))
        operations[name] = count * weight_bits * input_bits
    return operations


def stored_values(quantizer: nn.Module) -> int:
    """Number of float32 values that describe a quantizer's levels: steps, offsets, or the basis of learned levels."""
    if not isinstance(quantizer, Quantizer):
        return 0
    return quantizer.stored_values()


def quantized_weights(model: nn.Module) -> Dict[str, QuantizedLayer]:
    """Layers with a quantized weight by name, in the model's order; of those that share one parameter the first."""
    found: Dict[int, Tuple[str, QuantizedLayer]] = {}
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLayer) and isinstance(module.weight_quantizer, Quantizer):
            found.setdefault(id(module.original_weight()), (name, module))
    return dict(found.values())


def model_bytes(model: nn.Module) -> Tuple[float, float]:
    """Size of a model's parameters and running statistics: as quantized, and in full precision.

    Quantized weights take their bits, and their quantizers' levels are described by float32 values; everything else
    is float32. Tensors that modules share count once, at the bits of the first layer that quantizes them.

    Args:
        model (nn.Module): A converted model.

    Returns:
        Tuple[float, float]: Bytes of the quantized model and of the one in full precision.
    """
    tensors = {
        value.data_ptr(): value.numel() for value in full_precision_state(model).values() if value.is_floating_point()
    }
    full = quantized = _BYTES * sum(tensors.values())
    for module in model.modules():
        if isinstance(module, Quantizer):
            quantized += _BYTES * stored_values(module)
    for layer in quantized_weights(model).values():
        quantized -= layer.weight_to_quantize().numel() * (FULL_PRECISION_BITS - layer_bits(layer)[0]) / 8
    return quantized, full
