"""The YAML file of a comparison: what is compared, read and checked."""

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

from mmacs.evaluation.comparison import BASELINE, FULL
from mmacs.quantization.named_recipes import named_recipe
from mmacs.quantization.recipe import Recipe
from mmacs.utils.checks import is_number, is_whole, require_known
from mmacs.utils.errors import MmacsError, shortened, unknown_name
from mmacs.utils.yaml_file import read_mapping

STAGES = ('fp', 'ptq', 'qat')
OWN_RECIPE = 'config'  # that of the config, whatever it is
LARGEST_SEED = 2**32 - 1  # of NumPy's global state, which MMEngine sets
# What a method can change besides its preset: groups of the CoresetHook, and any setting of the config
_GROUPS = ('importance', 'selector', 'constraints', 'schedule', 'cost', 'unbiased', 'scorer', 'scoring')
_METHOD_KEYS = ('preset', *_GROUPS, 'cfg_options')
_TUNED_KEYS = ('stage', 'recipe', 'method', 'fraction', 'seed')

Method = Dict[str, Any]


@dataclass(frozen=True)
class Grid:
    """What is compared.

    Attributes:
        name (str): Of the file, without its ending.
        config (str): Path of the config that all runs start from.
        checkpoint (str, optional): In place of the config's ``load_from``.
        stages (Tuple[str]): Of ``'fp'``, ``'ptq'`` and ``'qat'``.
        recipes (Dict[str, Any]): Quantization recipes by name; None under ``'config'`` for the config's own.
        methods (Dict[str, Method]): Ways to choose images by name: ``preset``, groups of the CoresetHook, and
            ``cfg_options``.
        fractions (Tuple[float]): Shares of the images in an epoch.
        seeds (Tuple[int]): A run each.
        cfg_options (Dict[str, Any]): Changes of the config, such as ``{'train_cfg.max_epochs': 20}``.
        equal_time (Dict[str, Tuple[str]]): By method the methods for whose seconds it is trained, too.
        tuned_on (Tuple[Dict[str, Tuple]]): Which runs something was tuned on: values of stage, recipe, method,
            fraction and seed; a run is meant if all that is named fits.
    """

    name: str
    config: str
    checkpoint: Optional[str] = None
    stages: Tuple[str, ...] = ('qat',)
    recipes: Dict[str, Any] = field(default_factory=lambda: {OWN_RECIPE: None})
    methods: Dict[str, Method] = field(default_factory=dict)
    fractions: Tuple[float, ...] = ()
    seeds: Tuple[int, ...] = (0,)
    cfg_options: Dict[str, Any] = field(default_factory=dict)
    equal_time: Dict[str, Tuple[str, ...]] = field(default_factory=dict)
    tuned_on: Tuple[Dict[str, Tuple[Any, ...]], ...] = ()

    def is_tuned(self, **run: Any) -> bool:
        """Returns whether something was tuned on a run, which is told by stage, recipe, method, fraction and seed."""
        return any(all(run[key] in values for key, values in one.items()) for one in self.tuned_on)


KEYS = tuple(one.name for one in fields(Grid) if one.name != 'name')


def read_grid(path: os.PathLike) -> Grid:
    """Read the YAML file of a comparison.

    Raises:
        MmacsError: If it cannot be read, names something that does not exist, or a value is of a wrong type.
    """
    given = read_mapping(path, 'grid')
    try:
        return _grid(Path(path).stem, given)
    except MmacsError as error:
        raise MmacsError(f'{path}: {error}') from error


def _grid(name: str, given: Mapping[str, Any]) -> Grid:
    for key in given:
        if key not in KEYS:
            raise unknown_name('key', key, KEYS)
    if 'config' not in given:
        raise MmacsError('config is missing: name the config that all runs start from')
    values: Dict[str, Any] = {key: _text(key, given[key]) for key in ('config', 'checkpoint') if key in given}
    if 'stages' in given:
        values['stages'] = tuple(_list('stages', given['stages'], 'such as [ptq, qat]'))
        for stage in values['stages']:
            require_known('stage', stage, STAGES)
    if 'recipes' in given:
        values['recipes'] = _recipes(given['recipes'])
    if 'methods' in given:
        values['methods'] = _methods(given['methods'])
    for key, check, example in (
        ('fractions', _require_fraction, '[0.1, 0.3]'),
        ('seeds', _require_seed, '[0, 1, 2]'),
    ):
        if key in given:
            values[key] = tuple(_list(key, given[key], f'such as {example}'))
            for value in values[key]:
                check(value)
    if 'cfg_options' in given:
        values['cfg_options'] = _options('cfg_options', given['cfg_options'])
    grid = Grid(name, **values)
    _require_runs(grid)
    equal_time = _equal_time(given['equal_time'], grid.methods) if 'equal_time' in given else {}
    tuned_on = _tuned_on(given['tuned_on'], grid) if 'tuned_on' in given else ()
    return Grid(name, **values, equal_time=equal_time, tuned_on=tuned_on)


def _require_runs(grid: Grid) -> None:
    if 'qat' not in grid.stages:
        unused = [key for key in ('methods', 'fractions') if getattr(grid, key)]
        if unused:
            raise MmacsError(f'{unused[0]} belongs to the stage qat, which stages leaves out')
        return
    if not grid.methods:
        raise MmacsError(f'methods is missing: name some ways to choose images, such as [{BASELINE}, mmacs]')
    if not grid.fractions and set(grid.methods) != {FULL}:
        raise MmacsError('fractions is missing: name some shares of the images, such as [0.1, 0.3]')


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise MmacsError(f'{key} must be the path of a file, got {shortened(value)}')
    return value


def _list(key: str, value: Any, example: str) -> List[Any]:
    if not isinstance(value, list) or not value:
        raise MmacsError(f'{key} must be a list, {example}, got {shortened(value)}')
    for place, one in enumerate(value):
        if one in value[:place]:
            raise MmacsError(f'{key} names {shortened(one)} twice')
    return value


def _require_fraction(value: Any) -> None:
    if not is_number(value) or not 0 < value <= 1:
        raise MmacsError(f'fractions must be numbers above 0 and at most 1, got {shortened(value)}')


def _require_seed(value: Any) -> None:
    if not is_whole(value) or not 0 <= value <= LARGEST_SEED:
        raise MmacsError(f'seeds must be whole numbers from 0 to {LARGEST_SEED}, got {shortened(value)}')


def _options(key: str, value: Any) -> Dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise MmacsError(
            f'{key} must be settings of the config, such as train_cfg.max_epochs: 20, got {shortened(value)}'
        )
    return value


def _named(key: str, value: Any, example: str) -> Dict[str, Any]:
    """Entries of a list of names, of which some have a definition: ``[a, {b: {...}}]``."""
    found: Dict[str, Any] = {}
    for one in _list(key, value, example):
        if isinstance(one, dict) and len(one) == 1:
            ((name, definition),) = one.items()
            if not isinstance(definition, dict):
                raise MmacsError(f'{key}: {shortened(name)} must have settings, got {shortened(definition)}')
        else:
            name, definition = one, None
        if not isinstance(name, str) or not name:
            raise MmacsError(f'{key} must be names, {example}, or names with settings, got {shortened(one)}')
        if name in found:
            raise MmacsError(f'{key} names {name!r} twice')
        found[name] = definition
    return found


def _recipes(value: Any) -> Dict[str, Any]:
    found = _named('recipes', value, 'such as [w4a4, LSQ+ w2a2]')
    for name, definition in found.items():
        if name != OWN_RECIPE or definition is not None:
            found[name] = named_recipe(name) if definition is None else definition
            Recipe(found[name])  # tells its mistakes
    return found


def _methods(value: Any) -> Dict[str, Method]:
    found = _named('methods', value, f'such as [{BASELINE}, mmacs]')
    for name, definition in found.items():
        found[name] = method = {'preset': name} if definition is None else dict(definition)
        for key in method:
            if key not in _METHOD_KEYS:
                raise unknown_name(f'setting of the method {name!r}', key, _METHOD_KEYS)
        if 'preset' not in method:
            raise MmacsError(f'the method {name!r} names no preset: add preset: mmacs, or another one')
        if not isinstance(method['preset'], str):
            raise MmacsError(f'preset of the method {name!r} must be a name, got {shortened(method["preset"])}')
        if 'cfg_options' in method:
            _options(f'cfg_options of the method {name!r}', method['cfg_options'])
    # what a selection has to beat is in every comparison of selections
    if set(found) - {FULL} and BASELINE not in found:
        found = {BASELINE: {'preset': BASELINE}, **found}
    return found


def _equal_time(value: Any, methods: Mapping[str, Method]) -> Dict[str, Tuple[str, ...]]:
    if not isinstance(value, dict):
        raise MmacsError(
            f'equal_time must say which method is trained as long as which, such as {{{BASELINE}: [mmacs]}}, '
            f'got {shortened(value)}'
        )
    found = {}
    for name, others in value.items():
        found[name] = tuple(_list(f'equal_time of {name}', [others] if isinstance(others, str) else others, '[mmacs]'))
        for method in (name, *found[name]):
            require_known('method', method, methods)
        if FULL in (name, *found[name]) or name in found[name]:
            raise MmacsError(f'equal_time: {name} cannot be trained as long as {", ".join(found[name])}')
    return found


def _tuned_on(value: Any, grid: Grid) -> Tuple[Dict[str, Tuple[Any, ...]], ...]:
    names = {'stage': STAGES, 'recipe': grid.recipes, 'method': grid.methods}
    found = []
    for one in _list('tuned_on', value, 'such as [{seed: [100, 101]}]'):
        if not isinstance(one, dict) or not one:
            raise MmacsError(f'tuned_on must be a list of runs, such as [{{seed: [100, 101]}}], got {shortened(one)}')
        for key in one:
            if key not in _TUNED_KEYS:
                raise unknown_name('key of tuned_on', key, _TUNED_KEYS)
            for each in one[key] if isinstance(one[key], list) else [one[key]]:
                if key in names:
                    require_known(key, each, names[key])
                else:
                    {'fraction': _require_fraction, 'seed': _require_seed}[key](each)
        found.append({key: tuple(values) if isinstance(values, list) else (values,) for key, values in one.items()})
    return tuple(found)
