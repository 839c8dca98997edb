"""Convert a model in place: swap the class of its leaf layers and give them quantizers."""

from collections import Counter
from contextlib import contextmanager
from functools import partial
from typing import Any, Dict, Iterator, Tuple, Union

from torch import Tensor, nn

from mmacs.quantization.blocks import Addition, Concatenation, place_operations, quantize_operands
from mmacs.quantization.layers import QuantizedLayer, quantizable_layers
from mmacs.quantization.one_per_tensor import share_by_tensor
from mmacs.quantization.quantizers import Quantizer
from mmacs.quantization.recipe import ROLE_BITS, LayerSettings, Recipe, Settings, parameters_of
from mmacs.quantization.sharing import head_of, mark_forward, mark_per_level_norms, num_pyramid_levels
from mmacs.quantization.switchable import make_switchable
from mmacs.quantization.width import Width
from mmacs.utils.checks import MAX_LEVELS
from mmacs.utils.errors import MmacsError
from mmacs.utils.registry import QUANTIZERS


def quantize_model(model: nn.Module, recipe: Union[str, Dict[str, Any], Recipe] = 'w4a4') -> nn.Module:
    """Convert a full-precision model to a fake-quantized one, in place.

    The model stays the same object of the same class, its parameters keep their names and identities, and layers
    shared between places stay shared. What it gains is two quantizers per layer, ``<layer>.weight_quantizer`` and
    ``<layer>.input_quantizer``. Load full-precision weights before or after; then :func:`~.calibrate.calibrate`.

    Args:
        model (nn.Module): Any model. Convert it before it is wrapped for distributed training and before its
            optimizer is built.
        recipe (str, dict or Recipe): What to quantize, see :class:`~.recipe.Recipe`.

    Returns:
        nn.Module: ``model`` itself.

    Raises:
        MmacsError: If the model is quantized already, has no layer to quantize, or the recipe does not fit it.
    """
    if any(isinstance(module, QuantizedLayer) for module in model.modules()):
        raise MmacsError(f'this {type(model).__name__} is quantized already')
    recipe = recipe if isinstance(recipe, Recipe) else Recipe(recipe)
    plan = recipe.resolve(model)
    if not plan:
        raise MmacsError(f'the recipe leaves nothing of this {type(model).__name__} to quantize')
    operations = {kind: getattr(recipe, kind.recipe_key) for kind in (Addition, Concatenation)}
    operations = {kind: settings for kind, settings in operations.items() if settings is not None}
    for kind in list(operations):  # all of them before any is quantized: one may be missing
        if not place_operations(model, kind, optional=kind.recipe_key in recipe.implied):
            del operations[kind]
    _require_outputs(recipe, plan)
    for kind, settings in operations.items():
        quantize_operands(model, kind, partial(_build_operand, settings))
    modules, kinds = dict(model.named_modules()), quantizable_layers(model)
    # A layer that is registered in several places is called from each of them.
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    for name, settings in plan.items():
        layer, head = modules[name], head_of(model, name)
        layer.__class__ = kinds[name]
        _convert(name, layer, settings, 1 if head is None else max(num_pyramid_levels(head), places[id(layer)]))
        if layer.shared:
            mark_forward(model)
            if head is not None:
                mark_forward(head)
    for name in plan:
        if getattr(modules[name].weight_quantizer, 'replaces_weight', False):
            modules[name].original_weight().requires_grad_(False)
    mark_per_level_norms(model)
    if recipe.sharing == 'tensor':
        settings = _activation_settings(model, plan, operations)
        share_by_tensor(model, settings, partial(_build_shared, model))
    model.recipe = recipe.given
    if recipe.bit_widths:
        make_switchable(model, recipe.bit_widths)
    return model


def _require_outputs(recipe: Recipe, plan: Dict[str, LayerSettings]) -> None:
    quantized = any(settings.get('outputs') for settings in plan.values())
    if recipe.outputs is not None and not quantized and 'outputs' not in recipe.implied:
        raise MmacsError('the recipe quantizes outputs, but none of the layers that predict: leave `outputs` out')


def _convert(name: str, layer: nn.Module, settings: LayerSettings, num_levels: int) -> None:
    """Give a layer whose class was swapped its quantizers."""
    weight = layer.weight_to_quantize()
    layer.weight_quantizer = _build(
        settings['weight'], 'weight', shape=tuple(weight.shape), num_channels=len(weight), signed=True
    )
    activations = dict.fromkeys(layer.inputs, settings['activation'])
    if settings.get('outputs') is not None:
        if not layer.has_output:
            raise MmacsError(
                f'{name} is a {type(layer).original_type().__name__}, whose outputs stay in full precision'
            )
        activations['output_quantizer'] = settings['outputs']
    for kind, each in activations.items():
        channels = layer.num_input_channels() if kind in layer.inputs else 1
        given = {**_channels(layer, kind), 'num_channels': channels}
        setattr(layer, kind, _build(each, 'activation', num_levels, **given))
    for kind in ('weight_quantizer', *activations):
        quantizer = getattr(layer, kind)
        quantizer.to(weight.device)
        # a frozen stage stays frozen: its steps must not wait for gradients under DDP
        quantizer.requires_grad_(layer.original_weight().requires_grad)
        quantizer.train(layer.training)
        quantizer.name = f'{name}.{kind}'
    layer.shared = num_levels > 1 or any(getattr(getattr(layer, kind), 'num_levels', 1) > 1 for kind in activations)


def _channels(layer: QuantizedLayer, kind: str) -> Dict[str, Any]:
    """Returns where the channels of an activation are, and how many, if the layer says so."""
    return {
        'channel_axis': layer.input_channel_axis,
        'num_features': layer.num_features() if kind in layer.inputs else None,
    }


def quantizers(model: nn.Module) -> Iterator[Tuple[str, Quantizer]]:
    """Names and quantizers of a model, weights' and inputs', in the model's order."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, Quantizer))


def full_precision_state(model: nn.Module) -> Dict[str, Tensor]:
    """Returns the part of a model's ``state_dict`` that is not its quantizers', which full-precision checkpoints have.

    A layer that is registered under several names, as a convolution that RTMDet's head shares between pyramid levels
    is, has its weight under each of them, and its quantizers' state under none. Of BatchNorm's statistics it has those
    of the widest bit-width.
    """
    everywhere = model.named_modules(remove_duplicate=False)
    own = tuple(f'{name}.' for name, module in everywhere if isinstance(module, (Quantizer, Width)))
    return {key: value for key, value in model.state_dict().items() if not key.startswith(own)}


@contextmanager
def disabled(model: nn.Module) -> Iterator[nn.Module]:
    """Full-precision arithmetic inside: every quantizer passes its tensor through unchanged.

    Example::

        with disabled(model):
            teacher_logits = model(images)
    """
    switched_off = [quantizer for _, quantizer in quantizers(model) if quantizer.enabled]
    for quantizer in switched_off:
        quantizer.enabled = False
    try:
        yield model
    finally:
        for quantizer in switched_off:
            quantizer.enabled = True


def _activation_settings(
    model: nn.Module, plan: Dict[str, LayerSettings], operations: Dict[type, Settings]
) -> Dict[str, Settings]:
    """Returns what the recipe says of each activation quantizer, by name."""
    found = {}
    for name, _ in quantizers(model):
        place = name.rpartition('.')[0]
        if place in plan:
            found[name] = plan[place]['outputs' if name.endswith('.output_quantizer') else 'activation']
        else:
            block = model.get_submodule(place.rpartition('.')[0])
            found[name] = _operand_settings(operations[type(model.get_submodule(place))], block)
    return found


def _build_shared(model: nn.Module, name: str, settings: Settings, num_levels: int) -> Quantizer:
    """Returns a quantizer for a place, which others follow."""
    holder = model.get_submodule(name.rpartition('.')[0])
    channels = _channels(holder, name.rpartition('.')[2]) if isinstance(holder, QuantizedLayer) else {}
    return _build({**settings, 'per_level': True, 'per_channel': False}, 'activation', num_levels, **channels)


def _build_operand(settings: Settings, block: nn.Module) -> nn.Module:
    """Returns a quantizer of an operand in a block."""
    return _build({**_operand_settings(settings, block), 'per_level': False, 'per_channel': False}, 'activation')


def _operand_settings(settings: Settings, block: nn.Module) -> Settings:
    """Returns what the recipe says of operands in a block; the image keeps at least the bits that it has in layers."""
    sees_image = getattr(block, 'sees_image', False)
    return {**settings, 'bits': max(ROLE_BITS, settings['bits'])} if sees_image else settings


def _build(settings: Settings, kind: str, num_levels: int = 1, num_channels: int = 1, **more: Any) -> nn.Module:
    """A quantizer from its settings in a recipe and what the layer gives: channels, shape of the weight."""
    if settings is None:
        return nn.Identity()
    settings = {**settings, 'kind': kind}
    quantizer = QUANTIZERS.find(settings.pop('type'))
    num_channels = num_channels if settings.pop('per_channel', False) else 1
    per_level = settings.pop('per_level', False)
    if not isinstance(per_level, int) or not 0 <= per_level <= MAX_LEVELS:
        raise MmacsError(
            f'per_level must be True, False or the number of calls per forward, at most {MAX_LEVELS}, got {per_level!r}'
        )
    num_levels = num_levels if per_level is True else per_level or 1
    settings['num_channels'], settings['num_levels'] = num_channels, num_levels if num_channels == 1 else 1
    settings.update((key, value) for key, value in more.items() if key in parameters_of(quantizer))
    return quantizer(**settings)
