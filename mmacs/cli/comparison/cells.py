"""The runs of a comparison: which there are, in which order, and the config of each."""

import copy
import re
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Optional

from mmengine.config import Config, ConfigDict

from mmacs.cli.comparison.grid import Grid
from mmacs.cli.config_file import change_config, read_config
from mmacs.coreset.budget.cost import AUTO
from mmacs.coreset.presets import names, preset
from mmacs.coreset.scoring.scorers.base import DETECTOR, Scorer
from mmacs.evaluation.comparison import FULL
from mmacs.registry import HOOKS, SCORERS
from mmacs.utils.checks import require_known, require_whole
from mmacs.utils.errors import MmacsError

# What a run takes from the config's own CoresetHook, and the interval; all else is the preset's, or the method's own.
_SHARED = ('type', 'scorer', 'cache_dir', 'scoring')
# Times of schedulers, in epochs, that grow with the run
_TIMES = ('T_max', 'begin', 'end', 'total_steps', 'total_iters', 'step_size', 'milestones')


@dataclass(frozen=True)
class Cell:
    """One run, see :class:`mmacs.evaluation.comparison.Row`."""

    stage: str
    recipe: str
    seed: int
    method: str = ''
    fraction: Optional[float] = None
    as_long_as: str = ''

    @property
    def name(self) -> str:
        """What it is called in messages."""
        words = [self.method, f'as long as {self.as_long_as}' if self.as_long_as else '']
        words += ['' if self.fraction is None else f'{self.fraction:g}', self.recipe, f'seed {self.seed}']
        return ' '.join(word for word in ('' if self.stage == 'qat' else self.stage, *words) if word)

    @property
    def slug(self) -> str:
        """The same as the name of a folder."""
        return re.sub(r'[^\w.+-]+', '_', self.name)


def cells_of(grid: Grid) -> List[Cell]:
    """Returns all runs, seed by seed: what needs no training first, then full data, then the others."""
    first = grid.seeds[0]
    cells = [Cell('fp', '', first)] if 'fp' in grid.stages else []
    cells += [Cell('ptq', recipe, first) for recipe in grid.recipes if 'ptq' in grid.stages]
    if 'qat' in grid.stages:
        cells += [cell for seed in grid.seeds for recipe in grid.recipes for cell in _trained(grid, recipe, seed)]
    return cells


def _trained(grid: Grid, recipe: str, seed: int) -> Iterator[Cell]:
    if FULL in grid.methods:
        yield Cell('qat', recipe, seed, FULL, 1.0)
    for fraction in grid.fractions:
        for method in grid.methods:
            if method != FULL:
                yield Cell('qat', recipe, seed, method, fraction)
        for method, others in grid.equal_time.items():
            for other in others:
                yield Cell('qat', recipe, seed, method, fraction, other)


def base_config(grid: Grid) -> Config:
    """Returns the config that all runs start from.

    Raises:
        MmacsError: If it cannot be read or changed so, counts iterations, or does not know a method.
    """
    cfg = read_config(grid.config)
    change_config(cfg, grid.cfg_options)
    for key in ('model', 'train_dataloader', 'val_dataloader', 'train_cfg'):
        if not isinstance(cfg.get(key), dict):
            raise MmacsError(f'{grid.config} has no {key}: name a config that trains and validates a model')
    if not isinstance(cfg.get('default_hooks'), dict):
        cfg.default_hooks = {}
    cfg.launcher = 'none'
    if grid.checkpoint is not None:
        cfg.load_from = grid.checkpoint
    if 'qat' in grid.stages:
        if cfg.train_cfg.get('max_epochs') is None or not cfg.train_cfg.get('by_epoch', True):
            raise MmacsError(f'{grid.config} has no train_cfg.max_epochs: comparisons count epochs')
        require_whole('train_cfg.max_epochs', cfg.train_cfg.max_epochs)
        for name in grid.methods:
            require_known('preset', grid.methods[name]['preset'], names(kind_of(cfg)))
        for name in grid.methods:  # so that mistakes are told before the first run
            built = cell_config(grid, cfg, Cell('qat', next(iter(grid.recipes)), 0, name, 0.5))
            HOOKS.build(copy.deepcopy(built.default_hooks.coreset))
    return cfg


def kind_of(cfg: Config) -> str:
    """Returns the kind of model that a config trains, by the scorer of its CoresetHook.

    What needs no scorer means the same for all kinds.
    """
    scorer = (cfg.default_hooks.get('coreset') or {}).get('scorer')
    return DETECTOR if scorer is None else SCORERS.build(scorer, Scorer).kind


def cell_config(grid: Grid, cfg: Config, cell: Cell, epochs: Optional[int] = None) -> Config:
    """Returns the config of a run, without the names of its folder.

    Args:
        grid (Grid): The comparison.
        cfg (Config): From :func:`base_config`; it stays as it is.
        cell (Cell): The run.
        epochs (int, optional): Epochs in the place of the config's; its schedules are stretched with them.

    Raises:
        MmacsError: If the config's model is not quantized but has to be, or settings lead nowhere.
    """
    made = copy.deepcopy(cfg)
    made.randomness = dict(made.get('randomness', {}), seed=cell.seed)
    recipe = grid.recipes.get(cell.recipe)
    if recipe is not None:
        if not str(made.model.get('type', '')).endswith('QuantizedModel'):
            raise MmacsError(f'recipes need a quantized model: {grid.config} has model.type {made.model.get("type")!r}')
        made.model.recipe = recipe
    if cell.stage != 'qat':
        made.default_hooks.pop('coreset', None)
        return made
    _choose_images(made, grid.methods[cell.method], cell.fraction)
    if epochs is not None:
        _stretch(made, epochs)
    made.train_cfg.val_begin = made.train_cfg.max_epochs + 1  # metrics are taken once, at the end
    checkpoints = made.default_hooks.get('checkpoint') or {'type': 'CheckpointHook'}
    made.default_hooks.checkpoint = {**checkpoints, 'interval': 1, 'max_keep_ckpts': 1}
    return made


def _choose_images(cfg: Config, method: Dict[str, Any], fraction: float) -> None:
    """Have a config choose images by a method: the sampler's fraction, and the CoresetHook."""
    sampler = cfg.train_dataloader.get('sampler', {})
    if not str(sampler.get('type', '')).endswith('CoresetSampler'):
        sampler = dict(type='mmacs.CoresetSampler')
    cfg.train_dataloader.sampler = dict(sampler, fraction=fraction)
    theirs = cfg.default_hooks.get('coreset') or {}
    groups = {key: value for key, value in method.items() if key not in ('preset', 'cfg_options')}
    hook = {'type': 'mmacs.CoresetHook', **{key: theirs[key] for key in _SHARED if key in theirs}}
    hook.update(preset=method['preset'], **groups)
    known = preset(method['preset'], kind_of(cfg))
    interval = theirs.get('schedule', {}).get('interval')
    if interval is not None and 'interval' not in known.get('schedule', {}) and known.get('importance') is not None:
        hook['schedule'] = _over({'interval': interval}, groups.get('schedule', {}))
    cost = groups.get('cost', {})  # which the table shows
    hook['cost'] = _over({'force': True}, {'budget': cost} if cost == AUTO else cost)
    cfg.default_hooks.coreset = ConfigDict(hook)
    change_config(cfg, method.get('cfg_options', {}))


def _over(base: Dict[str, Any], given: Any) -> Any:
    """Returns settings with those that are given in their place; what is none is told by what it is for."""
    return {**base, **given} if isinstance(given, dict) else given


def _stretch(cfg: Config, epochs: int) -> None:
    """Train for other epochs: schedules that count epochs are stretched, those that count iterations stay."""
    ratio = epochs / cfg.train_cfg.max_epochs
    cfg.train_cfg.max_epochs = epochs
    schedulers = cfg.get('param_scheduler') or []
    for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
        if scheduler.get('by_epoch', True):
            for key in _TIMES:
                if scheduler.get(key) is not None:
                    scheduler[key] = _times(scheduler[key], ratio)


def _times(value: Any, ratio: float) -> Any:
    if isinstance(value, (list, tuple)):
        return [_times(one, ratio) for one in value]
    return round(value * ratio) if value > 0 else value
