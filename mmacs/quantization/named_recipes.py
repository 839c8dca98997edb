"""Recipes by name: a quantizer's and bit-widths, as comparisons list them."""

import re
from typing import Any, Dict, Tuple

from mmacs.quantization.recipe import PRESETS
from mmacs.utils.errors import MmacsError, unknown_name
from mmacs.utils.json_file import read_object

_LSQ, _PAPER = dict(type='LSQ'), dict(type='LSQ', init='mean')
# Quantizers of weights and activations. PACT's paper takes DoReFa for weights, that of LSQ+ takes LSQ.
QUANTIZER_PAIRS: Dict[str, Tuple[Dict[str, Any], Dict[str, Any]]] = {
    'LSQ': (_LSQ, _LSQ),
    'LSQ-paper': (_PAPER, _PAPER),  # its start: at 8 bits far from the least error, and symmetric
    'LSQ-channels': (_LSQ, dict(type='LSQ', per_channel=True)),  # before depthwise convolutions
    'LSQ+': (_LSQ, dict(type='LSQPlus')),
    'TQT': (dict(type='TQT'), dict(type='TQT')),
    'PACT': (dict(type='DoReFa'), dict(type='PACT')),
    'DoReFa': (dict(type='DoReFa'), dict(type='DoReFa')),
    'OCTAV': (dict(type='OCTAV'), dict(type='OCTAV')),
    'DQ': (dict(type='DQWeight'), dict(type='DQActivation')),
    'SDQ': (dict(type='SDQ'), dict(type='SDQ')),
    'SDQ-log': (dict(type='SDQ', logarithmic=True), dict(type='SDQ')),
    'CPQ': (dict(type='CPQ'), dict(type='CPQ')),
    'CPQ-DropBits': (dict(type='CPQ', drop=0.1), dict(type='CPQ')),
    'DAQ': (_LSQ, dict(type='DAQ')),
    'CFWS': (dict(type='CoarseFine'), dict(type='KL')),
    'SLB': (dict(type='SLB'), _LSQ),
    'min-max': (dict(type='MinMax'), dict(type='MinMax')),
    'EMA': (dict(type='EMAMinMax'), dict(type='EMAMinMax')),
    'percentile': (dict(type='Percentile'), dict(type='Percentile')),
}


def named_recipe(text: str) -> Dict[str, Any]:
    """Returns the recipe that a text names.

    Args:
        text (str): Bits of weights and activations, such as ``'w4a4'``, also with ``-int``; a pair of quantizers
            before them, such as ``'LSQ+ w4a4'``, of :data:`QUANTIZER_PAIRS`; or a JSON file that holds a recipe.

    Raises:
        MmacsError: If it is none of these.
    """
    if text.endswith('.json'):
        return read_object(text, 'recipe')
    if text in PRESETS:
        return dict(preset=text)
    match = re.fullmatch(r'(?:(\S+) )?w(\d{1,2})a(\d{1,2})', text)
    if match is None:
        raise MmacsError(
            f"a recipe is bits such as 'w4a4', quantizers and bits such as 'LSQ+ w4a4', or a JSON file, got {text!r}"
        )
    pair: Tuple[Dict[str, Any], Dict[str, Any]] = ({}, {})
    if match[1] is not None:
        if match[1] not in QUANTIZER_PAIRS:
            raise unknown_name('pair of quantizers', match[1], QUANTIZER_PAIRS)
        pair = QUANTIZER_PAIRS[match[1]]
    weight, activation = (dict(quantizer, bits=int(bits)) for quantizer, bits in zip(pair, match.groups()[1:]))
    return dict(preset='w4a4', weight=weight, activation=activation)
