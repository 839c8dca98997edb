"""What every quantized layer has, and the registry of the types that have a quantized version."""

from contextlib import contextmanager
from typing import Any, Callable, ClassVar, Dict, Iterator, Optional, Tuple, Type

import torch
from torch import Tensor, nn

from mmacs.quantization.recompute import derive, derive_once, recomputed
from mmacs.utils.libraries import load_adapters

QUANTIZED_LAYERS: Dict[Type[nn.Module], Type['QuantizedLayer']] = {}

# Names of layers, within a module of a type, whose weight that module reads itself, so that a quantized forward of
# theirs would never run
WEIGHT_READ_BY_PARENT: Dict[Type[nn.Module], Tuple[str, ...]] = {}


class QuantizedLayer:
    """Marks a quantized layer, which has the children ``weight_quantizer`` and those named in ``inputs``.

    Each is a :class:`~mmacs.quantization.quantizers.Quantizer`, or ``nn.Identity`` where the recipe keeps full
    precision; an input may have a :class:`~mmacs.quantization.quantizers.SharedQuantizer`. Weight quantizers see the
    output channel as axis 0, whatever the layer's own layout. One that predicts may have an ``output_quantizer``.
    """

    inputs: ClassVar[Tuple[str, ...]] = ('input_quantizer',)  # names of its input quantizers
    input_channel_axis: ClassVar[int] = 1
    weight_name: ClassVar[str] = 'weight'  # of the parameter behind the quantized weight
    # Children that become quantized layers with it, and only then, since the original never calls them
    parts: ClassVar[Dict[str, Type['QuantizedLayer']]] = {}

    has_output: ClassVar[bool] = True  # whether its output can have a quantizer
    frozen = False  # whether the weight is a quantized one for good
    shared = False  # whether it is applied several times in one forward, see mmacs.quantization.sharing
    # While a forward runs: the fake-quantized weight by whether it carries gradients, once it is computed.
    weights_of_this_forward: Optional[Dict[bool, Tensor]] = None

    @classmethod
    def supports(cls, layer: nn.Module) -> bool:
        """Returns whether this very layer, of a registered type, can be quantized."""
        return True

    @classmethod
    def original_type(cls) -> Type[nn.Module]:
        """The type that this one is the quantized version of."""
        return next(base for base in cls.__mro__ if not issubclass(base, QuantizedLayer))

    def original_weight(self) -> nn.Parameter:
        """Returns the full-precision parameter behind the quantized weight."""
        return getattr(self, self.weight_name)

    def weight_to_quantize(self) -> Tensor:
        """Returns what the weight quantizer gets, with the output channel as axis 0."""
        return self.original_weight()

    def num_input_channels(self) -> int:
        """Returns the number of input channels that never mix, as those of a depthwise convolution, or 1."""
        groups = getattr(self, 'groups', 1)
        return groups if groups == getattr(self, 'in_channels', None) else 1

    def num_features(self) -> Optional[int]:
        """Returns the number of channels of its inputs; None if it does not say."""
        names = ('in_channels', 'in_features', 'embed_dim')
        return next((getattr(self, name) for name in names if hasattr(self, name)), None)

    def quantized_input(self, x: Tensor) -> Tensor:
        """The fake-quantized input, (N, C, ...), with its channels first where each has a range."""
        if getattr(self.input_quantizer, 'num_channels', 1) == 1:
            return self.input_quantizer(x)
        return derive(self.input_quantizer(x.transpose(0, 1)), _swap_first_axes)

    def quantized_output(self, y: Tensor) -> Tensor:
        """Returns the output, fake-quantized if the layer has a quantizer for it."""
        quantizer = self._modules.get('output_quantizer')
        return y if quantizer is None else quantizer(y)

    def restore_layout(self, weight: Tensor) -> Tensor:
        """Bring what the weight quantizer returned into the layout that the layer's arithmetic wants."""
        return weight

    def quantized_weight(self) -> Tensor:
        """The fake-quantized weight, computed once per forward where the layer is shared between pyramid levels."""
        weights = self.weights_of_this_forward
        if weights is None:
            return self._quantize_weight()
        with_gradient = torch.is_grad_enabled()
        if with_gradient not in weights:
            weights[with_gradient] = derive_once(self._quantize_weight())
        return weights[with_gradient]

    def freeze_weight(self, weight: Tensor) -> None:
        """Put a result of :meth:`quantized_weight` in the place of the parameter, for good."""
        setattr(self, self.weight_name, nn.Parameter(weight.detach().clone(), requires_grad=False))
        self.weight_quantizer = nn.Identity()
        self.frozen = True

    def _quantize_weight(self) -> Tensor:
        return derive(self.weight_quantizer(self.weight_to_quantize()), self.restore_layout)


class ReusedForward(QuantizedLayer):
    """Quantized layer that runs its original forward, which finds the fake-quantized weight in ``self.weight``."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Call the original forward with a fake-quantized first argument.

        For its gradient it runs once more, unless the layer has more than weight and bias, which may learn too.
        """

        def original(x: Tensor, weight: Tensor, bias: Optional[Tensor], *others: Any) -> Tensor:
            with shadowed(self, weight=weight, bias=bias):
                return self.original_forward(x, *others[: len(args)], **dict(zip(kwargs, others[len(args) :])))

        tensors = self.quantized_input(x), self.quantized_weight(), getattr(self, 'bias', None)
        if not self._has_only_weight_and_bias():
            return self.quantized_output(original(*tensors, *args, *kwargs.values()))
        return self.quantized_output(recomputed(original, *tensors, *args, *kwargs.values()))

    def _has_only_weight_and_bias(self) -> bool:
        own = {name for name, _ in self.named_parameters(recurse=False)}
        return own <= {'weight', 'bias'} and self._modules.keys() <= {
            'weight_quantizer',
            'output_quantizer',
            *self.inputs,
        }

    def original_forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Returns the forward in full precision, with the weight and bias that are read at the moment."""
        return super().forward(x, *args, **kwargs)


def _swap_first_axes(x: Tensor) -> Tensor:
    return x.transpose(0, 1)


@contextmanager
def shadowed(module: nn.Module, **attributes: Any) -> Iterator[None]:
    """Let a module's parameters or children read as something else; they stay registered as they are.

    An entry of the instance's ``__dict__`` comes before ``nn.Module.__getattr__``, which finds the registered ones.
    """
    module.__dict__.update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            del module.__dict__[name]


def register_layer(original: Type[nn.Module]) -> Callable[[Type[QuantizedLayer]], Type[QuantizedLayer]]:
    """Declare the decorated class as the quantized version of exactly the type ``original``.

    Subclasses are not covered: they may use the weight in ways of their own.
    """

    def register(quantized: Type[QuantizedLayer]) -> Type[QuantizedLayer]:
        QUANTIZED_LAYERS[original] = quantized
        return quantized

    return register


def register_weight_reader(parent: Type[nn.Module], *layers: str) -> None:
    """Declare that a module of this type reads the weights of these layers in it itself: they are not quantized."""
    WEIGHT_READ_BY_PARENT[parent] = layers


def quantizable_layers(model: nn.Module) -> Dict[str, Type[QuantizedLayer]]:
    """Find the layers that have a quantized version, or are one.

    Args:
        model (nn.Module): A model in full precision, or converted.

    Returns:
        Dict[str, Type[QuantizedLayer]]: The class that each becomes, by layer name, in the model's order. The parts
        of a layer come right after it.
    """
    found: Dict[str, Type[QuantizedLayer]] = {}
    left_out = set()
    load_adapters(model)
    for name, module in model.named_modules():
        for parent, layers in WEIGHT_READ_BY_PARENT.items():
            if isinstance(module, parent):
                left_out.update(f'{name}.{layer}'.lstrip('.') for layer in layers)
        if name in left_out:
            continue
        quantized = QUANTIZED_LAYERS.get(type(module))
        if isinstance(module, QuantizedLayer):
            found[name] = type(module)
        elif quantized is not None and quantized.supports(module):
            found[name] = quantized
            found.update((f'{name}.{part}'.lstrip('.'), kind) for part, kind in quantized.parts.items())
    return found
