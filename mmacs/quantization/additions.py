"""Quantized operands of residual and pyramid additions, without tracing.

On hardware an elementwise addition reads two stored feature maps, so a network that is low-bit throughout rounds them
too. The blocks below are known by the code of their ``forward``, which runs under a
:class:`torch.overrides.TorchFunctionMode` that finds the additions written in it.
"""

import inspect
import sys
from functools import cache, partial
from types import CodeType
from typing import Any, Callable, Dict, FrozenSet, List

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mmacs.quantization.quantizers import Quantizer
from mmacs.utils.errors import MmacsError


def _one(block: Any) -> int:
    return 1


def _with_identity(block: Any) -> int:
    return int(block.add_identity)


def _with_shortcut(block: Any) -> int:
    return int(block.with_res_shortcut)


def _with_connection(block: Any) -> int:
    return int(block.use_res_connect)


def _between_scales(block: Any) -> int:
    return 1 + (block.scales - 2) * (block.stage_type == 'normal')


def _between_levels(pyramid: Any) -> int:
    return len(pyramid.lateral_convs) - 1


# Additions of two feature maps in one forward, by the class whose ``forward`` a module runs. By name, so that nothing
# is imported; subclasses that keep the forward are covered (ResNeXt's blocks, RegNet's), those with their own are not.
ADDITIONS: Dict[str, Callable[[Any], int]] = {
    'mmacs.models.cifar_resnet.BasicBlock': _one,
    'mmdet.models.backbones.darknet.ResBlock': _one,
    'mmdet.models.backbones.res2net.Bottle2neck': _between_scales,
    'mmdet.models.backbones.resnet.BasicBlock': _one,
    'mmdet.models.backbones.resnet.Bottleneck': _one,
    'mmdet.models.layers.csp_layer.CSPNeXtBlock': _with_identity,
    'mmdet.models.layers.csp_layer.DarknetBottleneck': _with_identity,
    'mmdet.models.layers.inverted_residual.InvertedResidual': _with_shortcut,
    'mmdet.models.layers.res_layer.SimplifiedBasicBlock': _one,
    'mmdet.models.necks.fpn.FPN': _between_levels,
    'mmdet.models.necks.pafpn.PAFPN': lambda pyramid: 2 * _between_levels(pyramid),
    'mmpretrain.models.backbones.cspnet.DarknetBottleneck': _with_identity,
    'mmpretrain.models.backbones.mobilenet_v2.InvertedResidual': _with_connection,
    'mmpretrain.models.backbones.res2net.Bottle2neck': _between_scales,
    'mmpretrain.models.backbones.resnet.BasicBlock': _one,
    'mmpretrain.models.backbones.resnet.Bottleneck': _one,
    'mmpretrain.models.backbones.seresnet.SEBottleneck': _one,
    'mmpretrain.models.utils.inverted_residual.InvertedResidual': _with_shortcut,
    'torchvision.models.mobilenetv2.InvertedResidual': _with_connection,
    'torchvision.models.resnet.BasicBlock': _one,
    'torchvision.models.resnet.Bottleneck': _one,
}


def num_additions(module: nn.Module) -> int:
    """Number of additions of two feature maps in one forward of a module of a known type, 0 for any other."""
    forward = inspect.unwrap(type(module).forward)
    count = ADDITIONS.get(f'{forward.__module__}.{forward.__qualname__.removesuffix(".forward")}')
    return count(module) if count else 0


def quantize_additions(model: nn.Module, build: Callable[[], Quantizer]) -> List[str]:
    """Quantize both operands of the additions in residual blocks and feature pyramids, in place.

    A module with n additions gains ``<module>.addition_quantizers``, 2n quantizers in the order of use, left operand
    first; its class and its other names stay. With these quantizers disabled its output is what it was, bit for bit.

    Args:
        model (nn.Module): Any model.
        build (Callable): Builds one activation quantizer with a single range.

    Returns:
        List[str]: Names of the modules whose additions are quantized, in the model's order.

    Raises:
        MmacsError: If there is none, or if one recomputes its forward in the backward pass.
    """
    found = {name: module for name, module in model.named_modules() if num_additions(module)}
    if not found:
        raise MmacsError(
            f'the recipe quantizes additions, but this {type(model).__name__} has none in a block of a known type: '
            f'leave `additions` out, or enter its block in mmacs.quantization.additions.ADDITIONS'
        )
    for name, module in found.items():
        if getattr(module, 'with_cp', False):
            raise MmacsError(
                f'{name} recomputes its forward in the backward pass, where its additions cannot be quantized: set '
                f'with_cp=False for it, or leave `additions` out of the recipe'
            )
    for name, module in found.items():
        parameters = list(module.parameters())
        module.addition_quantizers = nn.ModuleList(build() for _ in range(2 * num_additions(module)))
        for index, quantizer in enumerate(module.addition_quantizers):
            quantizer.name = f'{name}.addition_quantizers.{index}'.lstrip('.')
        module.addition_quantizers.to(parameters[0].device)
        # a frozen stage stays frozen, as in layers
        module.addition_quantizers.requires_grad_(any(parameter.requires_grad for parameter in parameters))
        module.addition_quantizers.train(module.training)
        module.forward = partial(_forward, module)
    return list(found)


@torch.compiler.disable  # a compiler has no frames to tell additions by: such a block runs as it is
def _forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    forward = type(module).forward
    with _QuantizedAdditions(module.addition_quantizers, _code(inspect.unwrap(forward))):
        return forward(module, *args, **kwargs)


@cache
def _code(function: Callable) -> FrozenSet[CodeType]:
    """Code of a function and of those written inside it."""
    codes, pending = set(), [function.__code__]
    while pending:
        codes.add(pending[-1])
        pending += [const for const in pending.pop().co_consts if isinstance(const, CodeType)]
    return frozenset(codes)


class _QuantizedAdditions(TorchFunctionMode):
    """While active, quantizes the operands of additions of feature maps that the given code itself makes.

    Those that it calls (layers, their quantizers, plugins) are none of its own; only the calling frame tells. A new
    mode for each forward starts with the first quantizer, also after an interrupted one.
    """

    additions = (torch.add, Tensor.add, Tensor.add_)  # Tensor.add is also `+`, Tensor.add_ is `+=`

    def __init__(self, quantizers: nn.ModuleList, code: FrozenSet[CodeType]) -> None:
        super().__init__()
        self.quantizers = quantizers
        self.unused = iter(quantizers)
        self.code = code

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        """Call ``func``, on quantized operands if it adds feature maps."""
        own = func in self.additions and not kwargs and sys._getframe(1).f_code in self.code
        if not own or not _are_feature_maps(*args):
            return func(*args, **(kwargs or {}))
        left, right = (self._next()(operand) for operand in args)
        if left is args[0] and right is args[1]:  # disabled, or observing
            return func(*args)
        total = torch.add(left, right)  # never in place: the quantizer's backward may need what it returned
        return total.type_as(left) if func is Tensor.add_ else total

    def _next(self) -> nn.Module:
        quantizer = next(self.unused, None)
        if quantizer is None:
            raise MmacsError(
                f'{self.quantizers[0].name.rpartition(".")[0]} has quantizers for {len(self.quantizers) // 2} '
                f'additions, but its module makes more: correct its entry in mmacs.quantization.additions.ADDITIONS'
            )
        return quantizer


def _are_feature_maps(*operands: Any) -> bool:
    """Whether these are two floating tensors (N, C, H, W) of one shape."""
    return (
        len(operands) == 2
        and all(isinstance(x, Tensor) and x.dim() == 4 and x.is_floating_point() for x in operands)
        and operands[0].shape == operands[1].shape
    )
