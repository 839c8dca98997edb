"""Make a trained quantized model ready for inference: weights quantized once, BatchNorm folded into them.

In this order alone. Folding before quantization, as post-training tools do, would quantize weights that the steps were
not trained for; and a BatchNorm scale of zero, from which the unfolded weight can't be recovered, turns a channel's
step to zero. Folding afterwards multiplies quantized weights by a number per channel: they stay on a grid of as many
levels, whose step is the product.
"""

from collections import Counter
from typing import Any, Callable, Dict, Iterator, List, Tuple, Type

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.fusion import fuse_conv_bn_weights

from mmacs.quantization.batch_norm import PerLevelBatchNorm2d
from mmacs.quantization.layers import QuantizedLayer
from mmacs.quantization.quantizers import Quantizer, source_of
from mmacs.utils.errors import MmacsError
from mmacs.utils.libraries import load_adapters

# Modules that are known to apply a convolution and the norm registered right after it in this order, or not to
_ORDERS: Dict[Type[nn.Module], Callable[[Any], bool]] = {nn.Sequential: lambda sequence: True}


def register_order(kind: Type[nn.Module], norm_follows: Callable[[Any], bool]) -> None:
    """Declare a type of module with a convolution and a norm, and how to tell that it applies them in this order."""
    _ORDERS[kind] = norm_follows


@torch.no_grad()
def freeze(model: nn.Module) -> nn.Module:
    """Put quantized weights in the place of the weights, in place, for inference.

    Outputs stay what they are in eval mode, bit by bit; activations are still quantized in every forward. A frozen
    model can't be trained: no parameter takes a gradient. Freezing again changes nothing.

    Args:
        model (nn.Module): A quantized model with its steps.

    Returns:
        nn.Module: ``model`` itself, in eval mode.

    Raises:
        MmacsError: If the model is not quantized, or a weight quantizer is disabled or has no steps.
    """
    layers = [module for module in model.modules() if isinstance(module, QuantizedLayer)]
    if not layers:
        raise MmacsError(f'this {type(model).__name__} is not quantized: call mmacs.quantization.quantize_model first')
    layers = [layer for layer in layers if isinstance(layer.weight_quantizer, Quantizer)]
    for layer in layers:
        if not layer.weight_quantizer.enabled:
            raise MmacsError(f'{layer.weight_quantizer.name} is disabled: freeze the model outside disabled(model)')
        input_quantizer = source_of(layer.input_quantizer)
        if isinstance(input_quantizer, Quantizer) and not input_quantizer.is_initialized():
            raise MmacsError(
                f'{input_quantizer.name} never saw an input, so that its weight may be in use elsewhere in full '
                f'precision: calibrate the layer, or skip it in the recipe'
            )
    model.eval()
    weights = [layer.quantized_weight() for layer in layers]  # all of them before any changes: they may be tied
    for layer, weight in zip(layers, weights):
        layer.freeze_weight(weight)
    return model.requires_grad_(False)


@torch.no_grad()
def fold_batch_norm(model: nn.Module) -> nn.Module:
    """Fold BatchNorm into the convolutions before it, in place; outputs stay the same up to rounding of float32.

    Folded are a convolution and the BatchNorm registered right after it in the same module, as ResNets, ``ConvModule``
    and ``nn.Sequential`` have them, if each has one place in the model. A convolution that several BatchNorms follow
    (RTMDet's head, :class:`~.batch_norm.PerLevelBatchNorm2d`) stays as it is. Input quantizers stay everywhere.

    Note:
        ``mmcv.cnn.fuse_conv_bn`` is not it: it folds every BatchNorm into a convolution that they share, skips over
        activations between the two, and needs a BatchNorm with affine parameters. The arithmetic is torch's.

    Args:
        model (nn.Module): A model after :func:`freeze`.

    Returns:
        nn.Module: ``model`` itself.

    Raises:
        MmacsError: If the model has weight quantizers, or is in train mode.
    """
    if model.training:
        raise MmacsError('fold_batch_norm needs a model in eval mode: call freeze(model) first')
    for module in model.modules():
        if isinstance(module, QuantizedLayer) and isinstance(module.weight_quantizer, Quantizer):
            raise MmacsError('fold_batch_norm needs weights that are quantized already: call freeze(model) first')
    places = Counter(module for _, module in model.named_modules(remove_duplicate=False))
    for parent, conv_name, norm_name in list(normalised_convolutions(model)):
        conv, norm = getattr(parent, conv_name), getattr(parent, norm_name)
        per_level = isinstance(norm, PerLevelBatchNorm2d)
        if per_level or (conv.transposed and conv.groups > 1) or not places[conv] == places[norm] == 1:
            continue
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight,
            conv.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
            transpose=conv.transposed,
        )
        setattr(parent, norm_name, nn.Identity())
    return model.requires_grad_(False)


def normalised_convolutions(model: nn.Module) -> Iterator[Tuple[nn.Module, str, str]]:
    """Find convolutions that a BatchNorm with running statistics follows, or one per pyramid level.

    Yields:
        Tuple[nn.Module, str, str]: A module, and the names of the convolution and of the norm in it. Either may have
        other places too.
    """
    load_adapters(model)
    for parent in model.modules():
        known = [norm_follows(parent) for kind, norm_follows in _ORDERS.items() if isinstance(parent, kind)]
        if not all(known):
            continue
        children = list(parent.named_children())
        in_order = bool(known)
        for index, ((conv_name, conv), (norm_name, norm)) in enumerate(zip(children, children[1:])):
            if not in_order and _is(_ConvNd, children[:index][-1:]) and _is(_BatchNorm, children[index + 2 :][:1]):
                continue  # conv1, conv2, bn1, bn2: which belong together, the order does not tell
            if isinstance(conv, _ConvNd) and _fits(conv, norm):
                yield parent, conv_name, norm_name


def _fits(conv: nn.Module, norm: nn.Module) -> bool:
    norms = list(norm) if isinstance(norm, PerLevelBatchNorm2d) else [norm]
    return all(
        isinstance(each, _BatchNorm) and each.running_mean is not None and each.num_features == conv.out_channels
        for each in norms
    )


def _is(kind: type, child: List[Tuple[str, nn.Module]]) -> bool:
    return bool(child) and isinstance(child[0][1], kind)
