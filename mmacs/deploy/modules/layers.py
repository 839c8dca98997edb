"""Convolutions, their transposes and linear maps of integers, each a subclass of the layer that it stands for."""

from contextlib import contextmanager
from functools import cache
from typing import Any, Iterator, Optional, Sequence, Type, Union

from torch import Tensor, nn

from mmacs.deploy.integers import Codebook, IntegerWeight, rounded_bias, without_silent_channels
from mmacs.deploy.modules.activation import Quantize, SharedQuantize
from mmacs.deploy.modules.calls import Counted
from mmacs.deploy.modules.weight import TableWeight, Weight
from mmacs.deploy.tracing import is_exporting
from mmacs.quantization.layers.base import shadowed
from mmacs.utils.errors import MmacsError

Activation = Union[Quantize, SharedQuantize]


class IntegerLayer(Counted):
    """Comes before the class of a layer, whose forward it calls with quantized input, quantized weight, and a bias.

    Between quantized input and weight it computes with the integers themselves, as runtimes do, and scales the sums.
    While a file is written it emits nodes for the two. The children are ``input_quantizer``, a
    :class:`~.activation.Quantize`, and ``stored_weight``, a :class:`~.weight.Weight` or :class:`~.weight.TableWeight`;
    either is None where the recipe keeps full precision. So is ``output_quantizer``, but for some layers that predict.
    """

    num_norms: int  # BatchNorms that were folded in, one per call
    num_biases: int  # one, or one per pyramid level, or none
    bias_kind: str = 'bias'  # or 'exact_bias', as it was before it was rounded; files have the first

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Map what the original layer maps."""
        y = self.computed(x, *args, **kwargs)
        return y if self.output_quantizer is None else self.output_quantizer(y)

    def computed(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Returns what the original layer computes, before it may be quantized."""
        call = self.next_call() if self.num_norms > 1 else 0
        if call >= self.num_norms > 1:
            raise MmacsError(f'{self.name} was called more than {self.num_norms} times in one forward')
        quantizer, weight = self.input_quantizer, self.stored_weight
        turn = None if quantizer is None else quantizer.turn_of(x)
        level = turn.own if turn is not None and quantizer.num_levels > 1 else call
        bias = getattr(self, f'{self.bias_kind}_{level if self.num_biases > 1 else 0}') if self.num_biases else None
        in_integers = isinstance(weight, Weight) and quantizer is not None and not quantizer.is_per_channel
        if not in_integers or is_exporting() or x.numel() == 0:
            x = x if quantizer is None else quantizer(x, turn)
            with shadowed(self, weight=self.float_weight if weight is None else weight(level), bias=bias):
                return super().forward(x, *args, **kwargs)
        integers = quantizer.integers(x, turn)
        with shadowed(self, weight=weight.codes(level), bias=None):
            sums = super().forward(integers, *args, **kwargs)
        scale = getattr(self, f'scale_{level if weight.num_levels > 1 else 0}')
        y = sums * self._by_channel(scale * quantizer.step(turn.level, x))
        return y if bias is None else y + self._by_channel(bias)

    def _by_channel(self, row: Tensor) -> Tensor:
        """One number per output channel, as it broadcasts against the output."""
        return row.view(-1, *[1] * (self.stored_weight.levels.dim() - 2))


@cache
def _integer_kind(original: Type[nn.Module]) -> Type[nn.Module]:
    same = {name: getattr(original, name) for name in ('__module__', '__doc__')}
    return type(f'Integer{original.__name__}', (IntegerLayer, original), same)


def integer_layer(
    layer: nn.Module,
    original: Type[nn.Module],
    name: str,
    quantizer: Optional[Activation],
    weights: Sequence[Union[IntegerWeight, Codebook]],
    biases: Sequence[Tensor],
    output_quantizer: Optional[Activation] = None,
) -> nn.Module:
    """Returns a layer that stands for a quantized one.

    Args:
        layer (QuantizedLayer): The quantized layer; it stays as it is.
        original (type): The class whose forward is called.
        name (str): Name of the layer.
        quantizer (Quantize, optional): Of the input.
        weights (Sequence[IntegerWeight or Codebook]): One, or one per BatchNorm that was folded; none in full
            precision.
        biases (Sequence[Tensor]): As many, float32, shape (C,); or none.
        output_quantizer (Quantize, optional): Of the output.
    """
    integer = object.__new__(_integer_kind(original))
    nn.Module.__init__(integer)
    private = vars(integer).keys()
    vars(integer).update((key, value) for key, value in vars(layer).items() if key not in private)
    integer.name, integer.calls = name, 0
    integer.register_parameter('weight', None)  # what is printed of a layer, and asked of it, looks for them
    integer.register_parameter('bias', None)
    integer.num_norms = max(1, len(weights))
    integer.input_quantizer, integer.output_quantizer = quantizer, output_quantizer
    exact, is_integer = biases, all(isinstance(weight, IntegerWeight) for weight in weights)
    if weights and is_integer and quantizer is not None and biases:
        steps = quantizer.steps()
        weights = [without_silent_channels(weight, bias, steps) for weight, bias in zip(weights, biases)]
        if not quantizer.is_per_channel:
            count = max(len(biases), len(steps))
            one = len(biases) == 1, len(steps) == 1
            exact = [biases[0 if one[0] else number] for number in range(count)]
            biases = [
                rounded_bias(bias, weights[0 if one[0] else number].scale, steps[0 if one[1] else number])
                for number, bias in enumerate(exact)
            ]
    integer.num_biases = len(biases)
    for number, (bias, before) in enumerate(zip(biases, exact)):
        integer.register_buffer(f'bias_{number}', bias.clone())
        integer.register_buffer(f'exact_bias_{number}', before.clone(), persistent=False)
    for number, weight in enumerate(weights if is_integer else ()):
        integer.register_buffer(f'scale_{number}', weight.scale.clone(), persistent=False)
    integer.stored_weight = None
    if weights:
        kind = Weight if is_integer else TableWeight
        integer.stored_weight = kind(weights, layer.restore_layout, f'{name}.weight_quantizer')
    else:
        integer.register_buffer('float_weight', layer.original_weight().detach())
    return integer


@contextmanager
def exact_biases(model: nn.Module) -> Iterator[None]:
    """Have the layers of a reference add their biases as they were before these were rounded to the runtimes' grid.

    What is left is the conversion itself, which has to give what the simulation does, up to the rounding of float32.

    Args:
        model (nn.Module): What :func:`~..reference.reference_model` made, or holds such a model.
    """
    layers = [module for module in model.modules() if isinstance(module, IntegerLayer)]
    for layer in layers:
        layer.bias_kind = 'exact_bias'
    try:
        yield
    finally:
        for layer in layers:
            layer.bias_kind = 'bias'
