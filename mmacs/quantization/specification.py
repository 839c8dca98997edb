"""What a model is quantized with, as plain values with a version, which travel in its checkpoints."""

import json
import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Dict, List, Optional

from torch import nn

from mmacs.quantization.convert import quantizers
from mmacs.quantization.quantizers import Quantizer
from mmacs.quantization.switchable import at_bits
from mmacs.utils.errors import MmacsError

VERSION = 1
GRANULARITIES = ('per_tensor', 'per_channel', 'per_level')
FULL_PRECISION = 'full precision'
SHOWN = 3
LONGEST = 300  # characters of a recipe in an error message

# Checkpoints of mmacs 0.1 hold a text per quantizer, such as 'LSQ, 4 bits, 64 ranges, powers of two'.
_TEXT = re.compile(r'(\w+), (\d{1,9}) bits, (\d{1,9}) ranges?((?:, [^,]+)*)')
_TEXT_OPTIONS = {'powers of two': ('power_of_two', True), 'asymmetric': ('symmetric', False)}


@dataclass(frozen=True)
class QuantizerSpecification:
    """What the levels of one quantizer are made of, beside its learned values.

    Attributes:
        type (str): Name of its class.
        bits (int): Bit-width, 1 to 16.
        granularity (str): What has a range of its own: ``'per_tensor'``, ``'per_channel'`` or ``'per_level'`` (of the
            feature pyramid).
        ranges (int): Number of ranges, at least 1.
        options (Dict[str, Any]): Settings of its own that are not the defaults, see
            :meth:`~.quantizers.base.Quantizer.options`.
    """

    type: str
    bits: int
    granularity: str
    ranges: int
    options: Dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, quantizer: Quantizer) -> 'QuantizerSpecification':
        """Returns the specification of a quantizer.

        Raises:
            MmacsError: If its options are no plain values, which a checkpoint could not give back.
        """
        kind, options = type(quantizer).__name__, quantizer.options()
        if type(options) is not dict or not _is_plain(options):
            raise MmacsError(
                f'{kind}.options() must return a dict of plain values (None, bool, int, float, str, and lists, tuples '
                f'and dicts of them) by name, such as {{"power_of_two": True}}, got {options!r}'
            )
        granularity = 'per_channel' if quantizer.num_channels > 1 else 'per_level'
        granularity = granularity if quantizer.num_ranges > 1 else 'per_tensor'
        return cls(kind, quantizer.bits, granularity, quantizer.num_ranges, options)

    @classmethod
    def from_dict(cls, name: str, value: Any) -> 'QuantizerSpecification':
        """Returns a specification from the plain values of a checkpoint.

        Raises:
            MmacsError: If they are not those of a quantizer.
        """
        known = {each.name for each in fields(cls)}
        if not isinstance(value, dict) or value.keys() != known:
            raise _malformed(f'{name} must have {", ".join(sorted(known))}, got {value!r}')
        found = cls(**value)
        is_right = {
            'type': isinstance(found.type, str),
            'bits': type(found.bits) is int and found.bits >= 1,
            'granularity': found.granularity in GRANULARITIES,
            'ranges': type(found.ranges) is int and found.ranges >= 1,
            'options': type(found.options) is dict and _is_plain(found.options),
        }
        for key, right in is_right.items():
            if not right:
                raise _malformed(f'{name} has {key} {value[key]!r}')
        return found

    @classmethod
    def from_text(cls, name: str, text: str) -> 'QuantizerSpecification':
        """Returns a specification from the text that mmacs 0.1 wrote.

        Ranges of a weight were those of channels, ranges of an input those of pyramid levels. Words that quantizers of
        others added become options that are True.

        Raises:
            MmacsError: If it is no such text.
        """
        match = _TEXT.fullmatch(text)
        options = match[4].split(', ')[1:] if match else []
        if not match:
            raise _malformed(f'{name} is {text!r}')
        ranges = int(match[3])
        granularity = 'per_channel' if name.endswith('weight_quantizer') else 'per_level'
        granularity = granularity if ranges > 1 else 'per_tensor'
        found = dict(_TEXT_OPTIONS.get(option, (option, True)) for option in options)
        return cls(match[1], int(match[2]), granularity, ranges, found)

    def differences(self, other: 'QuantizerSpecification') -> List[str]:
        """Returns a few words for each field that differs, such as ``'bits 2 in the model, 4 in the checkpoint'``."""
        return [
            f'{each.name} {getattr(self, each.name)!r} in the model, {getattr(other, each.name)!r} in the checkpoint'
            for each in fields(self)
            if getattr(self, each.name) != getattr(other, each.name)
        ]

    def __str__(self) -> str:
        """Returns it in words, such as ``'LSQ, 4 bits, per_channel'``."""
        options = ''.join(f', {option}={value!r}' for option, value in self.options.items())
        return f'{self.type}, {self.bits} bits, {self.granularity}{options}'


@dataclass(frozen=True)
class Specification:
    """What a model is quantized with.

    Attributes:
        recipe (dict): See :class:`~.recipe.Recipe`.
        quantizers (Dict[str, QuantizerSpecification]): What the recipe came to, by name of the quantizer.
    """

    recipe: Dict[str, Any]
    quantizers: Dict[str, QuantizerSpecification]

    @classmethod
    def of(cls, model: nn.Module) -> 'Specification':
        """Returns the specification of a model that :func:`~.convert.quantize_model` converted."""
        recipe = json.loads(json.dumps(model.recipe))  # configs have dicts and lists of classes of their own
        with at_bits(model, None):  # of several bit-widths the widest; the recipe names the others
            return cls(recipe, {name: QuantizerSpecification.of(quantizer) for name, quantizer in quantizers(model)})

    @classmethod
    def from_state(cls, state: Any) -> 'Specification':
        """Returns a specification from what a checkpoint holds, that of mmacs 0.1 too.

        Args:
            state (Any): What :meth:`state` returned, or anything else that a stranger's checkpoint may hold.

        Raises:
            MmacsError: If it is of a newer version, or no specification.
        """
        if not isinstance(state, dict):
            raise _malformed(f'it is of type {type(state).__name__}')
        version = state.get('version', 0)  # mmacs 0.1 wrote none
        if type(version) is not int or version < 0:
            raise _malformed(f'its version is {version!r}')
        if version > VERSION:
            raise MmacsError(
                f'the quantization of the checkpoint is specified in version {version}, and this mmacs reads versions '
                f'up to {VERSION}: update mmacs'
            )
        recipe, found = state.get('recipe'), state.get('quantizers')
        if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
            raise _malformed(f'its quantizers are {_short(found)}')
        if version == 0:
            if not isinstance(recipe, str) or not all(isinstance(text, str) for text in found.values()):
                raise _malformed('it has no version, and its recipe and quantizers are no texts')
            try:
                recipe = json.loads(recipe)
            except (ValueError, RecursionError) as error:
                raise _malformed(f'its recipe is {_short(recipe)}') from error
        if not isinstance(recipe, dict):
            raise _malformed(f'its recipe is {_short(recipe)}')
        read = QuantizerSpecification.from_dict if version else QuantizerSpecification.from_text
        return cls(recipe, {name: read(name, value) for name, value in found.items()})

    def state(self) -> Dict[str, Any]:
        """Returns it as plain values for a checkpoint: ``version``, ``recipe`` and ``quantizers``."""
        return {'version': VERSION, **asdict(self)}

    def require_same(self, other: 'Specification', resume: bool) -> None:
        """Compare the specification of a model with that of a checkpoint which is about to be loaded.

        Args:
            other (Specification): The checkpoint's.
            resume (bool): Whether training goes on. Otherwise the model may quantize what the checkpoint does not: that
                is going to be calibrated.

        Raises:
            MmacsError: If any quantizer differs; the message counts them, and has the fields of the first and both
                recipes.
        """
        compared = {**self.quantizers, **other.quantizers} if resume else other.quantizers
        differing = [name for name in compared if self.quantizers.get(name) != other.quantizers.get(name)]
        if differing:
            examples = '; '.join(
                f'{name} ({_difference(self.quantizers.get(name), other.quantizers.get(name))})'
                for name in differing[:SHOWN]
            )
            raise MmacsError(
                f'the checkpoint was trained with another recipe: {len(differing)} quantizers differ, first '
                f'{examples}. Recipe of the model: {_short(self.recipe)}; of the checkpoint: {_short(other.recipe)}. '
                f'Use the recipe of the checkpoint, or start from a full-precision one'
            )


def _difference(own: Optional[QuantizerSpecification], other: Optional[QuantizerSpecification]) -> str:
    if own is None or other is None:
        return f'{own or FULL_PRECISION} in the model, {other or FULL_PRECISION} in the checkpoint'
    return ', '.join(own.differences(other))


def _is_plain(value: Any) -> bool:
    if type(value) is dict:
        return all(type(key) is str and _is_plain(each) for key, each in value.items())
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def _malformed(what: str) -> MmacsError:
    return MmacsError(f'the specification of the quantization in the checkpoint is damaged: {what}')


def _short(value: Any) -> str:
    text = json.dumps(value, default=repr, skipkeys=True)
    return text if len(text) <= LONGEST else text[:LONGEST] + ' ...'
