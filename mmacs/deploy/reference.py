"""The reference: a quantized model, computed with the integers that a file holds."""

from copy import deepcopy
from typing import Dict, List, Optional, Tuple, Union

import torch
from torch import Tensor, nn

from mmacs.deploy.integers import (
    Codebook,
    IntegerWeight,
    activation_grid,
    batch_norm_factor,
    codebook,
    integer_weight,
    scaled_by_channel,
    thirds,
    with_finer_scale,
)
from mmacs.deploy.modules.activation import Quantize, SharedQuantize, forget_tensors
from mmacs.deploy.modules.attention import integer_attention
from mmacs.deploy.modules.calls import begin_forward
from mmacs.deploy.modules.layers import Activation, integer_layer
from mmacs.quantization.batch_norm import PerLevelBatchNorm2d
from mmacs.quantization.freeze import normalised_convolutions
from mmacs.quantization.layers import QuantizedLayer, QuantizedLinear, QuantizedMultiheadAttention
from mmacs.quantization.quantizers import Quantizer, SharedQuantizer

StoredWeight = Union[IntegerWeight, Codebook]


@torch.no_grad()
def reference_model(model: nn.Module, target: str = 'cpu', round_offsets: bool = False) -> nn.Module:
    """Returns a copy of a quantized model whose layers compute with integers, in eval mode.

    It is called as the model is, and what it computes is what a file of it computes: weights are integers with a scale
    per output channel, BatchNorm right after a convolution is part of its scales and bias, biases lie on the grid of
    the sums that they are added to. Between the layers all is as it was. Outputs are those of the simulation up to the
    rounding of biases and of float32. What is in full precision stays in full precision.

    Args:
        model (nn.Module): A quantized model with its steps; it stays as it is.
        target (str): ``'cpu'``; ``'tensorrt'``, which stores activations as int8 with zero at 0 and wants positive
            scales; or ``'qonnx'``, whose weights are multiplied with as few bits as they have. Defaults to ``'cpu'``.
        round_offsets (bool): Whether activations whose offset is no multiple of the step take the nearest one, which
            changes the model. Defaults to False.

    Raises:
        MmacsError: If a quantizer has no integers that runtimes know.
    """
    copy = deepcopy(model).eval().requires_grad_(False)
    _Rewriter(copy, target, round_offsets).run()
    return copy.eval().requires_grad_(False)


class _Rewriter:
    """Puts export modules in the places of quantized layers and of other quantizers, in a copy of a model."""

    def __init__(self, model: nn.Module, target: str, round_offsets: bool) -> None:
        self.model = model
        self.signed_storage = target == 'tensorrt'
        self.finer = target == 'cpu'
        self.round_offsets = round_offsets
        self.names = {id(module): name for name, module in model.named_modules()}
        self.made: Dict[Tuple[int, ...], nn.Module] = {}  # by the modules that one stands for
        self.integer_weights: Dict[int, Tuple[StoredWeight, type]] = {}  # of a layer, before any BatchNorm

    def run(self) -> None:
        """Rewrite all; what is in several places becomes one object in all of them, for each BatchNorm after it."""
        norms = {
            (id(parent), conv_name): (parent, norm_name)
            for parent, conv_name, norm_name in normalised_convolutions(self.model)
        }
        modules = list(self.model.modules())
        for parent in modules:
            if isinstance(parent, QuantizedLayer) and not isinstance(parent, QuantizedMultiheadAttention):
                continue
            for name, child in list(parent._modules.items()):
                if isinstance(child, QuantizedMultiheadAttention):
                    pass  # after its parts
                elif isinstance(child, QuantizedLayer):
                    norm = norms.get((id(parent), name))
                    parent._modules[name] = self.layer(child, norm)
                elif isinstance(child, (Quantizer, SharedQuantizer)) and not isinstance(parent, QuantizedLayer):
                    parent._modules[name] = self.quantizer(child)
        for parent in modules:
            for name, child in list(parent._modules.items()):
                if isinstance(child, QuantizedMultiheadAttention):
                    parent._modules[name] = self.attention(child)
        for module in (self.model, *modules):
            if module is self.model or hasattr(module, 'shared_inside'):  # marks the begin of a forward
                module.register_forward_pre_hook(begin_forward)
                module.shared_inside = None
        self.model.register_forward_pre_hook(forget_tensors)

    def layer(self, layer: nn.Module, norm_place: Optional[Tuple[nn.Module, str]]) -> nn.Module:
        """Returns what stands for a layer, with the BatchNorm after it if that can be folded; it is taken out then."""
        norm = None if norm_place is None else norm_place[0]._modules[norm_place[1]]
        key = id(layer), id(norm)
        if key in self.made:
            folded = self.made[key]
        else:
            folded = self.made[key] = self._layer(layer, norm)
        if norm is not None and folded.has_norm:
            norm_place[0]._modules[norm_place[1]] = nn.Identity()
        return folded

    def _layer(self, layer: nn.Module, norm: Optional[nn.Module]) -> nn.Module:
        name = self.names[id(layer)]
        original, bias = type(layer).original_type(), layer.bias
        biases = [] if bias is None else [bias.detach()]
        weights: List[StoredWeight] = []
        if isinstance(layer.weight_quantizer, Quantizer):
            weight, original = self.weight_of(layer)
            weights = [weight]
        has_norm = False
        if weights and norm is not None:
            folded = self.fold(weights[0], bias, norm)
            if folded is not None:
                has_norm, (weights, biases) = True, folded
        made = integer_layer(
            layer,
            original,
            name,
            self.activation_of(layer, 'input_quantizer'),
            weights,
            biases,
            self.activation_of(layer, 'output_quantizer'),
        )
        made.has_norm = has_norm
        return made

    def weight_of(self, layer: nn.Module) -> Tuple[StoredWeight, type]:
        """Returns a layer's weight, output channels first, and the class that computes with a weight that is ready."""
        if id(layer) not in self.integer_weights:
            quantizer = layer.weight_quantizer
            values = quantizer.fake_quantized(layer.weight_to_quantize(), 0)
            if quantizer.uniform:
                weight = integer_weight(values.float(), quantizer.grid(), self.names[id(quantizer)])
                weight = with_finer_scale(weight) if self.finer else weight
            else:
                weight = codebook(values.float(), quantizer.bits)
            layer.freeze_weight(layer.restore_layout(values))  # one that standardizes its weight does so no more
            layer.weight_quantizer = quantizer
            self.integer_weights[id(layer)] = weight, type(layer).original_type()
        return self.integer_weights[id(layer)]

    def fold(
        self, weight: StoredWeight, bias: Optional[Tensor], norm: nn.Module
    ) -> Optional[Tuple[List[StoredWeight], List[Tensor]]]:
        """Returns weights and biases with a BatchNorm in them, one for each of its levels; None if that can't be."""
        weights, biases = [], []
        for each in norm if isinstance(norm, PerLevelBatchNorm2d) else [norm]:
            factor, constant = batch_norm_factor(each.running_mean, each.running_var, each.eps, each.weight, each.bias)
            scaled = scaled_by_channel(weight, factor, positive=self.signed_storage)
            if scaled is None:
                return None
            weights.append(scaled)
            biases.append(constant if bias is None else constant + bias * factor)
        return weights, biases

    def attention(self, layer: QuantizedMultiheadAttention) -> nn.Module:
        """Returns what stands for attention, whose ``out_proj`` was rewritten."""
        key = (id(layer),)
        if key in self.made:
            return self.made[key]
        name, weights = self.names[id(layer)], [None] * 3
        if isinstance(layer.weight_quantizer, Quantizer):
            weight, _ = self.weight_of(layer)
            weights = thirds(weight)
        biases = [None] * 3 if layer.in_proj_bias is None else layer.in_proj_bias.detach().chunk(3)
        projections = []
        for number, (kind, part) in enumerate(zip(layer.inputs, ('query', 'key', 'value'))):
            shell = nn.Linear(1, 1)
            shell.__class__ = QuantizedLinear
            shell.in_features = shell.out_features = layer.embed_dim
            shell.weight = nn.Parameter(layer.in_proj_weight.detach().chunk(3)[number], requires_grad=False)
            projections.append(
                integer_layer(
                    shell,
                    nn.Linear,
                    f'{name}.{part}',
                    self.activation_of(layer, kind),
                    [] if weights[number] is None else [weights[number]],
                    [] if biases[number] is None else [biases[number]],
                )
            )
        self.made[key] = integer_attention(layer, projections)
        return self.made[key]

    def activation_of(self, layer: nn.Module, kind: str) -> Optional[Activation]:
        """Returns what stands for the quantizer of an input or output, None in full precision."""
        quantizer = getattr(layer, kind, None)
        return self.quantizer(quantizer) if isinstance(quantizer, (Quantizer, SharedQuantizer)) else None

    def quantizer(self, quantizer: nn.Module) -> Activation:
        """Returns what stands for a quantizer of an activation, or for what stands for one."""
        key = (id(quantizer),)
        if key not in self.made and isinstance(quantizer, SharedQuantizer):
            self.made[key] = SharedQuantize(self.quantizer(quantizer.source), quantizer.levels)
        if key not in self.made:
            name = self.names[id(quantizer)]
            ready = [flags.initialized for flags in quantizer.read_flags()]
            grids = [
                activation_grid(quantizer.grid(level), name, self.round_offsets) if is_ready else None
                for level, is_ready in enumerate(ready)
            ]
            self.made[key] = Quantize(name, grids, self.signed_storage, shared=max(quantizer.reads) > 1)
        return self.made[key]
