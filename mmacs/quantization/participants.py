"""Which quantizers have the main bit-width of a recipe."""

from typing import Any, Dict, List, Optional

from torch import nn

from mmacs.quantization.layers import QuantizedLayer
from mmacs.quantization.quantizers import Quantizer, source_of
from mmacs.quantization.quantizers.base import KINDS
from mmacs.quantization.recipe import Recipe, selects
from mmacs.quantization.roles import find_roles


def start_bits(recipe: Any) -> Dict[str, int]:
    """Main bit-width of each kind that a recipe quantizes."""
    return {kind: settings['bits'] for kind, settings in Recipe(recipe).settings.items() if settings is not None}


def participants(model: nn.Module) -> Dict[str, List[str]]:
    """Names of the quantizers whose bit-width is learned: those that have the recipe's main bit-width by default.

    Layers with a role (the one that sees the image, those that predict) keep their bits, and so does whatever a rule
    of the recipe gives bits to, be they the main ones: such a rule is how to keep a layer out. Operands of additions
    and concatenations are not part of a layer with weights and keep theirs. A quantizer that several follow takes part
    if all of them do.

    Args:
        model (nn.Module): A model converted by :func:`~.convert.quantize_model`.

    Returns:
        Dict[str, List[str]]: Names by ``'weight'`` and ``'activation'``; kinds without any are missing.
    """
    roles, rules = find_roles(model), Recipe(model.recipe).rules
    found: Dict[str, Dict[str, Quantizer]] = {kind: {} for kind in KINDS}
    kept_out = set()
    for place, module in model.named_modules():
        name = place.rpartition('.')[0]
        layer, quantizer = model.get_submodule(name), source_of(module)
        if not isinstance(quantizer, Quantizer):
            continue
        takes_part = isinstance(layer, QuantizedLayer) and name not in roles
        if takes_part:
            own = [rule for rule in rules if selects(rule, name, type(layer), None)]
            takes_part = not any(_sets_bits(rule.get(quantizer.kind)) for rule in own)
        if not takes_part:
            kept_out.add(quantizer)
        if module is quantizer:
            found[quantizer.kind][place] = quantizer
    taking_part = {
        kind: [name for name, quantizer in found[kind].items() if quantizer not in kept_out]
        for kind in start_bits(model.recipe)
    }
    return {kind: names for kind, names in taking_part.items() if names}


def _sets_bits(change: Optional[Dict[str, Any]]) -> bool:
    return change is not None and 'bits' in change
