"""What a model is quantized with, as plain values that travel in its checkpoints."""

import json
from typing import Any, Dict

from torch import nn

from mmacs.quantization.convert import quantizers
from mmacs.utils.errors import MmacsError

SHOWN = 3
LONGEST = 300  # characters of a recipe in an error message


def describe(model: nn.Module) -> Dict[str, Any]:
    """The recipe of a converted model, and what it came to.

    Args:
        model (nn.Module): Converted by :func:`~.convert.quantize_model`.

    Returns:
        dict: ``recipe`` as it was given, in JSON, and ``quantizers``: by name, such as
            ``'LSQ, 4 bits, 64 ranges'``.
    """
    found = {}
    for name, quantizer in quantizers(model):
        ranges = f'{quantizer.num_ranges} range' + ('s' if quantizer.num_ranges > 1 else '')
        found[name] = f'{type(quantizer).__name__}, {quantizer.bits} bits, {ranges}'
        found[name] += ''.join(f', {option}' for option in quantizer.options())
    return {'recipe': json.dumps(model.recipe), 'quantizers': found}


def require_same(model: nn.Module, other: Dict[str, Any], resume: bool) -> None:
    """Compare a model with the description that a checkpoint brings.

    Args:
        model (nn.Module): The model that the checkpoint is about to be loaded into.
        other (dict): What :func:`describe` made of the model of the checkpoint.
        resume (bool): Whether training goes on. Otherwise the model may quantize what the checkpoint does not: that
            is going to be calibrated.

    Raises:
        MmacsError: If any quantizer differs; the message counts them, and shows the first and both recipes.
    """
    own = describe(model)
    ours, theirs = own['quantizers'], other['quantizers']
    compared = {**ours, **theirs} if resume else theirs
    differing = [name for name in compared if ours.get(name) != theirs.get(name)]
    if differing:
        examples = '; '.join(
            f'{name} ({ours.get(name, "full precision")} in the model, {theirs.get(name, "full precision")} in the '
            f'checkpoint)'
            for name in differing[:SHOWN]
        )
        raise MmacsError(
            f'the checkpoint was trained with another recipe: {len(differing)} quantizers differ, first {examples}. '
            f'Recipe of the model: {_short(own["recipe"])}; of the checkpoint: {_short(other["recipe"])}. Use the '
            f'recipe of the checkpoint, or start from a full-precision one'
        )


def _short(recipe: str) -> str:
    return recipe if len(recipe) <= LONGEST else recipe[:LONGEST] + ' ...'
