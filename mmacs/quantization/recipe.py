"""What is quantized, and how: a preset, changed by settings and ordered rules, resolved for a given model."""

import inspect
import re
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Set, Type, Union

from torch import nn

from mmacs.quantization.layers import QuantizedLayer, quantizable_layers
from mmacs.quantization.quantizers.base import check_bits
from mmacs.quantization.roles import ROLES, find_roles
from mmacs.utils.checks import is_whole, require_known, require_switch
from mmacs.utils.errors import MmacsError, unknown_name
from mmacs.utils.json_file import read_object
from mmacs.utils.registry import QUANTIZERS

PRESETS = ('w8a8', 'w4a8', 'w4a4', 'w3a3', 'w2a2', 'w4a32', 'w2a32', 'w1a32', 'w1a1', 'w8a8-int', 'w4a4-int')
FULL_PRECISION_BITS = 32
ROLE_BITS = 8  # at least, for the layer that sees the image and those that predict, as in the published detectors

Settings = Optional[Dict[str, Any]]
LayerSettings = Dict[str, Settings]

_DEFAULTS: LayerSettings = {
    'weight': {'type': 'LSQ', 'bits': 4, 'per_channel': True},
    'activation': {'type': 'LSQ', 'bits': 4, 'signed': None, 'per_level': True, 'per_channel': False},
}
# Arguments of quantizers that the conversion fills in.
_GIVEN_BY_CONVERSION = {'self', 'args', 'kwargs', 'kind', 'num_channels', 'num_levels'}
_GIVEN_BY_CONVERSION |= {'signed', 'shape', 'channel_axis', 'num_features'}
SHARING = ('layer', 'tensor')
_OPERATIONS = ('additions', 'concatenations')  # of feature maps, in blocks
# What presets that end in '-int' say besides: runtimes make integer convolutions of those whose result is stored as
# integers, by one quantizer
_INTEGER = {key: {'bits': ROLE_BITS} for key in (*_OPERATIONS, 'outputs')} | {'sharing': 'tensor'}
_LONGEST_PATTERN = 1000
_KEYS = ('preset', 'weight', 'activation', *_OPERATIONS, 'outputs', 'sharing', 'bit_widths', 'rules')
_SELECTORS = ('name', 'type', 'role')


def _check_keys(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    for key in given:
        if key not in known:
            raise unknown_name(what, key, known)


def parameters_of(quantizer: type) -> Set[str]:
    """Returns the names of what a type of quantizer, or a base of it, is constructed from."""
    return {name for base in quantizer.__mro__ for name in inspect.signature(base.__init__).parameters}


def _options(kind: str, quantizer: type) -> Set[str]:
    """Returns the settings that a type of quantizer takes in a recipe: those of every recipe, and its own."""
    return set(_DEFAULTS[kind]) | parameters_of(quantizer) - _GIVEN_BY_CONVERSION


def _changed(kind: str, settings: Settings, change: Settings) -> Settings:
    """Returns the settings of a weight or activation quantizer after a change; None, or 32 bits, is full precision."""
    if change is None:
        return None
    if not isinstance(change, dict):
        raise MmacsError(f'{kind} must be a dict of settings, such as dict(bits=4), or None, got {change!r}')
    if settings is None and change and 'bits' not in change:
        raise MmacsError(f'{kind} is in full precision, so that {change} needs bits')
    settings = settings or _DEFAULTS[kind]
    quantizer = QUANTIZERS.find(change.get('type', settings['type']))
    if kind not in quantizer.kinds:
        raise MmacsError(f'{quantizer.__name__} quantizes the {quantizer.kinds[0]}, not the {kind}: take another type')
    known = _options(kind, quantizer)
    _check_keys(f'{kind} setting', change, known)
    if change.get('bits') == FULL_PRECISION_BITS:
        return None
    # the options of another type of quantizer go with it
    settings = {**{key: value for key, value in settings.items() if key in known}, **change}
    check_bits(settings['bits'])
    for switch in ('per_channel', 'power_of_two', 'signed'):
        if not isinstance(settings.get(switch), (bool, type(None))):
            raise MmacsError(f'{switch} must be True or False, got {settings[switch]!r}')
    return settings


def _bit_widths(given: Any) -> List[int]:
    """Returns the bit-widths to switch between; none if there is one alone."""
    if given is None:
        return []
    listed = isinstance(given, (list, tuple)) and all(map(is_whole, given))
    if not listed or len(set(given)) != len(given) or len(given) < 2:
        raise MmacsError(
            f'bit_widths must be a list of two or more different integers, such as [8, 4, 2], got {given!r}'
        )
    for bits in given:
        check_bits(bits)
    return list(given)


class Recipe:
    """Ordered rules that say what is quantized; later rules win.

    Example::

        Recipe('w4a4')
        Recipe(dict(preset='w4a4', activation=dict(bits=8), rules=[dict(name='neck.*', weight=dict(bits=8))]))
        Recipe(dict(preset='w2a2', weight=dict(type='TQT'), activation=dict(type='PACT')))
        Recipe('work_dirs/mixed/recipe.json')

    Args:
        recipe (str or dict): The name of a preset, a JSON file that holds a recipe, or a dict with these optional
            keys. ``preset``: defaults to ``'w4a4'``. ``weight``, ``activation``: changes to the preset's settings,
            where None or ``bits=32`` keeps full precision: ``type`` (a quantizer), ``bits``, ``power_of_two`` and the
            options of that quantizer; for weights ``per_channel``; for activations ``signed``, where None decides from
            the data, ``per_level``, where True gives layers of a dense head a range per pyramid level and an integer
            says how often the layer is called in one forward, and ``per_channel``, where True gives depthwise
            convolutions, whose channels never mix, a range per channel (not all runtimes have that). ``additions``:
            settings like those of activations, for the operands of residual and pyramid additions, which stay in full
            precision by default.
            ``concatenations``: the same for those of concatenations, which share one range. ``outputs``: the same for
            what layers that predict give, with a range per pyramid level. ``sharing``: ``'layer'``,
            the default, gives each layer input a quantizer of its own, ``'tensor'`` one to all that read the same
            feature map, with the most bits that one of them wants, see :mod:`~.one_per_tensor`. ``bit_widths``: a
            list of bit-widths that one set of weights is trained for, the widest that of the preset, see
            :func:`~.switchable.set_bits`. ``rules``: a list of dicts that select layers by ``name`` (pattern with
            ``*``), ``type`` (such as ``Conv2d``) or ``role`` (``input``, ``prediction``), and change their ``weight``,
            ``activation`` or ``outputs``, or ``skip=True`` them.

    Raises:
        MmacsError: If a name, key or bit-width is wrong; in :meth:`resolve` if a rule selects no layer.
    """

    def __init__(self, recipe: Union[str, Dict[str, Any]] = 'w4a4') -> None:
        if not isinstance(recipe, (str, dict)):
            raise MmacsError(f"a recipe is a preset's name, a JSON file or a dict, got {recipe!r}")
        if isinstance(recipe, str):
            recipe = read_object(Path(recipe), 'recipe') if recipe.endswith('.json') else {'preset': recipe}
        self.given = recipe = dict(recipe)
        _check_keys('recipe key', recipe, _KEYS)
        self.preset = recipe.get('preset', 'w4a4')
        if self.preset not in PRESETS:
            other = "; for other bits take preset='w4a4' with weight=dict(bits=...) and activation=dict(bits=...)"
            raise MmacsError(f'{unknown_name("preset", self.preset, PRESETS)}{other}')
        *bits, integer = re.fullmatch(r'w(\d+)a(\d+)(-int)?', self.preset).groups()
        self.implied = {key: value for key, value in _INTEGER.items() if integer and key not in recipe}
        recipe = {**recipe, **self.implied}
        self.settings: LayerSettings = {}
        for kind, kind_bits in zip(('weight', 'activation'), bits):
            self.settings[kind] = _changed(kind, None, {'bits': int(kind_bits)})
            if kind in recipe:
                self.settings[kind] = _changed(kind, self.settings[kind], recipe[kind])
        self.sharing = recipe.get('sharing', 'layer')
        require_known('sharing', self.sharing, SHARING)
        self.bit_widths = _bit_widths(recipe.get('bit_widths'))
        self.additions, self.concatenations = (
            self._of_results(key, recipe.get(key), ('per_level', 'per_channel')) for key in _OPERATIONS
        )
        self.outputs = self._of_outputs(recipe.get('outputs'))
        rules = [] if recipe.get('rules') is None else recipe['rules']
        if not isinstance(rules, (list, tuple)) or not all(isinstance(rule, dict) for rule in rules):
            raise MmacsError(f'rules must be a list of dicts, got {rules!r}')
        self.rules: List[Dict[str, Any]] = [dict(rule) for rule in rules]
        for rule in self.rules:
            _check_keys('rule key', rule, (*_SELECTORS, 'weight', 'activation', 'outputs', 'skip'))
            for key in _SELECTORS:
                if not isinstance(rule.get(key, ''), str):
                    raise MmacsError(f'{key} of a rule must be a name, got {rule[key]!r}')
            if rule.get('skip') is not None:
                require_switch('skip of a rule', rule['skip'])
            if not any(key in rule for key in _SELECTORS):
                raise MmacsError(f'the rule {rule} selects nothing: give it a name, a type or a role')
            if len(str(rule.get('name', ''))) > _LONGEST_PATTERN:
                raise MmacsError(f'a name in a rule has more than {_LONGEST_PATTERN} characters: {rule["name"]!r:.60}')
            if rule.get('role', 'input') not in ROLES:
                raise unknown_name('role', rule['role'], ROLES)

    def _of_results(self, key: str, given: Settings, impossible: Iterable[str]) -> Settings:
        if given is None:
            return None
        if not isinstance(given, dict):
            raise MmacsError(f'{key} must be a dict of settings, such as dict(bits=8), or None, got {given!r}')
        for setting in impossible:
            if setting in given:
                raise MmacsError(f'{key} have no {setting}: each has one range for all')
        return _changed('activation', self.settings['activation'], given)

    def _of_outputs(self, given: Settings) -> Settings:
        return self._of_results('outputs', given, ('per_channel',))

    def resolve(self, model: nn.Module) -> Dict[str, LayerSettings]:
        """Returns the settings of every layer of a model that is to be quantized.

        Args:
            model (nn.Module): A model in full precision.

        Returns:
            Dict[str, LayerSettings]: ``{'weight': ..., 'activation': ...}`` by layer name, in the model's order, with
            ``'outputs'`` where they are quantized.
        """
        kinds = quantizable_layers(model)
        roles = find_roles(model)
        resolved = {name: dict(self.settings) for name in kinds}
        for name, role in roles.items():
            for kind, settings in self.settings.items():
                if settings is not None:
                    resolved[name][kind] = {**settings, 'bits': max(ROLE_BITS, settings['bits'])}
            if role == 'prediction' and self.outputs is not None:
                resolved[name]['outputs'] = self.outputs
        for rule in self.rules:
            chosen = [name for name, kind in kinds.items() if selects(rule, name, kind, roles.get(name))]
            if not chosen:
                raise _selects_nothing(rule, kinds)
            for name in chosen:
                for kind in ('weight', 'activation'):
                    if rule.get('skip'):
                        resolved[name][kind] = None
                    elif kind in rule:
                        resolved[name][kind] = _changed(kind, resolved[name][kind], rule[kind])
                if rule.get('skip') or 'outputs' in rule:
                    resolved[name].pop('outputs', None)
                if rule.get('outputs') is not None and not rule.get('skip'):
                    resolved[name]['outputs'] = self._of_outputs(rule['outputs'])
        chosen = {name for name, settings in resolved.items() if any(settings.values())}
        # a part is called by its quantized owner alone, which then is converted too, if in full precision
        for name, kind in kinds.items():
            if any(f'{name}.{part}'.lstrip('.') in chosen for part in kind.parts):
                chosen.add(name)
        return {name: settings for name, settings in resolved.items() if name in chosen}


def selects(rule: Dict[str, Any], name: str, kind: Type[QuantizedLayer], role: Optional[str]) -> bool:
    """Returns whether a rule selects a layer, given by name, quantized class and role."""
    type_name = kind.original_type().__name__
    return (
        fnmatchcase(name, rule.get('name', '*'))
        and rule.get('type', type_name) == type_name
        and rule.get('role', role) == role
    )


def _selects_nothing(rule: Dict[str, Any], layers: Iterable[str]) -> MmacsError:
    message = f'the rule {rule} matches no layer of the model'
    if 'name' in rule:
        inside = [name for name in layers if fnmatchcase(name, f'{rule["name"]}.*')]
        if inside:
            return MmacsError(
                f"{message}: a name has to match whole, and '{rule['name']}.*' matches {len(inside)} layers"
            )
        near = get_close_matches(rule['name'], layers, n=3, cutoff=0.3)
        message += f'; layers with near names: {", ".join(near or list(layers)[:3])}'
    return MmacsError(message)
