"""The config that quantizes a model of a user's own, written for them: a few lines that inherit theirs."""

import os
import pydoc
from pathlib import Path
from typing import Any, List, Mapping, NamedTuple, Optional, Tuple

from mmengine.config import Config
from mmengine.registry import HOOKS
from torch import nn

from mmacs.adapters.base import adapter_of
from mmacs.adapters.kinds import ClassifierAdapter, DenseAdapter, QueryAdapter, TwoStageAdapter
from mmacs.cli.complexity import build_model
from mmacs.cli.config_file import read_config
from mmacs.cli.supported import SCORERS
from mmacs.coreset.budget.cost import WAYS_OUT
from mmacs.coreset.settings import CoresetSettings
from mmacs.datasets.counting import count_images
from mmacs.models.quantized_model import is_quantized
from mmacs.quantization import quantizers
from mmacs.quantization.named_recipes import named_recipe
from mmacs.utils.checkpoints import latest_checkpoint
from mmacs.utils.checks import is_number
from mmacs.utils.errors import MmacsError
from mmacs.utils.files import atomic_path, misspelt, require_new
from mmacs.utils.packaged_config import PackagedConfig, packaged_config
from mmacs.utils.type_names import type_name, type_path

_KINDS = {
    DenseAdapter: 'one-stage',
    TwoStageAdapter: 'two-stage',
    QueryAdapter: 'query',
    ClassifierAdapter: 'classifier',
}
_FEW = 1000  # images, of which rounds may take longer than it pays


class Written(NamedTuple):
    """Lines of a config, what they do, in words, and the checkpoint that they name, None if it is there."""

    lines: List[str]
    said: List[str]
    missing: Optional[str]


def write_config(
    config: str,
    out: Optional[str] = None,
    checkpoint: Optional[str] = None,
    recipe: str = 'w4a4',
    fraction: float = 0.3,
    force: bool = False,
) -> List[str]:
    """Write a config that inherits a user's, quantizes its model and trains it on a coreset; then load it once.

    Args:
        config (str): The user's config, of a model in full precision; a file, or one of a package, ``'mmdet::...'``.
        out (str, optional): The file. None for the name of the config with the recipe, in its folder, or in the
            current one where the config is of a package.
        checkpoint (str, optional): Trained weights of the model. None for the last that a run of the config has left,
            those that its package publishes, or the one that it will end with.
        recipe (str): See :func:`mmacs.quantization.named_recipes.named_recipe`.
        fraction (float): Share of the images in each epoch; with 1 no coreset is chosen.
        force (bool): Whether a file that is there is replaced. Defaults to False.

    Returns:
        List[str]: What was done, line by line.

    Raises:
        MmacsError: If the config cannot be read, inherited or built, is of a quantized model, or the file is there.
    """
    named_recipe(recipe)  # refuses an unknown one before anything else
    packaged = '::' in config
    base = Path(config.partition('::')[2] if packaged else config)
    coreset = '' if fraction == 1 else '_acs'
    suffix = f'{Path(recipe).stem.replace(" ", "_").lower()}{coreset}'
    file = Path(out) if out else Path('' if packaged else base.parent) / f'{base.stem}_{suffix}.py'
    if file.suffix != '.py':
        raise MmacsError(f'--out {file} must end in .py, as configs do')
    require_new(file, force)
    cfg, published = _inheritable(config, packaged)
    inherited = config if packaged else _seen_from(file.parent, base)
    written = _lines(cfg, inherited, base.stem, checkpoint, published, recipe, fraction)
    with atomic_path(file) as temporary:
        temporary.write_text('\n'.join(written.lines) + '\n')
        layers = _load_once(temporary)
    return [
        f'wrote {file}: {len(written.lines)} lines that inherit {config}',
        *(f'- {line}' for line in written.said),
        f'- loaded once: the model builds, with {layers} quantizers',
        *_next(config, packaged, file, written.missing),
    ]


def _seen_from(folder: Path, file: Path) -> str:
    """Returns a file's path from a folder, or its absolute one where no path leads there."""
    try:
        return Path(os.path.relpath(file, folder)).as_posix()
    except ValueError:  # on another drive of Windows
        return Path(os.path.abspath(file)).as_posix()


def _next(config: str, packaged: bool, file: Path, missing: Optional[str]) -> List[str]:
    """Returns what to do, in words; without its checkpoint the run would be refused."""
    if missing is None:
        return [f'next: mmacs train {file}']
    set_it = f'set load_from in {file} to trained weights of this model, a file or a URL'
    how = set_it if packaged else f'mmacs train {config} ends with it; or {set_it}'
    return [f'first: {missing} is missing: {how}', f'then: mmacs train {file}']


def _inheritable(config: str, packaged: bool) -> PackagedConfig:
    """Returns a user's config, and the weights that its package publishes for it.

    Raises:
        MmacsError: If it cannot be inherited, has no model in full precision, or does not train it.
    """
    if packaged:
        found = packaged_config(config)
    else:
        if Path(config).is_file() and Config._is_lazy_import(config):
            raise MmacsError(
                f'{config} is in the pure Python style of MMEngine (read_base, imports), which a config with '
                f'_base_ cannot inherit: write it as text first, '
                f"Config.fromfile({config!r}).dump('{Path(config).stem}_text.py')"
            )
        found = PackagedConfig(read_config(config), None)
    cfg = found.config
    if not isinstance(cfg.get('model'), dict) or 'type' not in cfg.model:
        raise MmacsError(f'{config} has no model with a type: name the config that trains your model')
    if is_quantized(cfg.model):
        raise MmacsError(f'the model of {config} is quantized already: train it, mmacs train {config}')
    kind = cfg.model.type
    if not isinstance(kind, str) and pydoc.locate(type_path(kind)) is not kind:
        raise MmacsError(
            f'{config} defines the class {type_name(kind)} itself, which no config can name: move it to a module of '
            f'your own, and import it from there'
        )
    missing = [key for key in ('train_dataloader', 'train_cfg', 'optim_wrapper') if not isinstance(cfg.get(key), dict)]
    if missing:
        raise MmacsError(
            f'{config} does not train its model: it has no {", no ".join(missing)}; name the config that trains it, or '
            f'add what is missing'
        )
    return found


def _lines(
    cfg: Config,
    inherited: str,
    name: str,
    checkpoint: Optional[str],
    published: Optional[str],
    named: str,
    fraction: float,
) -> Written:
    """Returns the lines of the new config.

    Args:
        cfg (Config): The user's.
        inherited (str): What ``_base_`` names.
        name (str): Of the user's config, which MMEngine calls its run.
        checkpoint (str, optional): See :func:`write_config`.
        published (str, optional): URL of the weights that the config's package publishes.
        named (str): The recipe, see :func:`write_config`.
        fraction (float): See :func:`write_config`.
    """
    recipe, kind_of_model = named_recipe(named), type_path(cfg.model.type)
    model = build_model(_copy(cfg))
    lines, said = [f'_base_ = {inherited!r}', ''], []
    plugins = (cfg.get('custom_imports') or {}).get('imports') or []
    if plugins:
        theirs = '_base_.custom_imports.imports' if isinstance(plugins, str) else '*_base_.custom_imports.imports'
        lines.append(f"custom_imports = dict(imports=[{theirs}, 'mmacs'])")
        names = [plugins] if isinstance(plugins, str) else plugins
        said.append(f'your custom_imports stay ({", ".join(names)}), and mmacs is imported after them')
    else:
        lines.append("custom_imports = dict(imports=['mmacs'], allow_failed_imports=False)")
    start, about, missing = _start(cfg, name, checkpoint, published)
    lines.append(f'load_from = {start!r}  # the trained weights in full precision, also the teacher')
    said.append(about)
    lines += ['', f"model = dict(type='mmacs.QuantizedModel', model={kind_of_model!r}, recipe={_written(recipe)})"]
    hooks = ["    quantization=dict(type='mmacs.QuantizationHook'),"]
    adapter = adapter_of(model)
    kind = next((kind for of, kind in _KINDS.items() if isinstance(adapter, of)), None)
    said.insert(0, f'{type_name(kind_of_model)}, {_described(kind)}, is quantized by the recipe {named}')
    if fraction < 1:
        # MMEngine takes _delete_ for a setting where there is nothing to delete
        delete = '_delete_=True, ' if 'sampler' in cfg.train_dataloader else ''
        lines.append(
            f"train_dataloader = dict(sampler=dict({delete}type='mmacs.CoresetSampler', fraction={fraction:g}))"
        )
        hooks.append(f'    coreset=dict({_coreset(model, kind, cfg.train_dataloader, fraction, said)}),')
        sampler = type_name((cfg.train_dataloader.get('sampler') or {}).get('type'))
        if sampler not in ('DefaultSampler', 'None'):
            said.append(f'mmacs.CoresetSampler takes the place of your {sampler}')
    lines += ['default_hooks = dict(', *hooks, ')', *_optimization(cfg, said)]
    frozen = (cfg.model.get('backbone') or {}).get('frozen_stages', -1)
    if isinstance(frozen, int) and frozen > 0:
        said.append(
            f'backbone.frozen_stages={frozen} of yours freezes the step sizes of these stages, too; low bits usually '
            f'want -1'
        )
    return Written(lines, said, missing)


def _optimization(cfg: Config, said: List[str]) -> List[str]:
    """Returns the lines of the optimizer wrapper: what is trained already only adapts to the rounding."""
    wrapper, lines, settings = cfg.optim_wrapper, [], []
    rate = _learning_rate(wrapper)
    constructor = type_name(wrapper.get('constructor') or 'DefaultOptimWrapperConstructor')
    if rate is not None:
        low = float(f'{rate / 10:.4g}')
        lines.append(f'# the weights are trained already: a tenth of your learning rate, {rate:g}')
        settings.append(f'optimizer=dict(lr={low:g})')
        said.append(
            f'the learning rate is {low:g}, a tenth of yours, since trained weights only adapt to the rounding: half '
            f'to a tenth is usual at 4 bits, down to a hundredth at 8'
        )
        said += _fixed_rates(cfg, low)
    else:
        said.append(
            'your learning rate stays: lower it, to a tenth say, since trained weights only adapt to the rounding'
        )
    if constructor == 'DefaultOptimWrapperConstructor':
        lines.append('# step sizes are not weights: they get no weight decay')
        settings.append("constructor='mmacs.QuantizationOptimWrapperConstructor'")
    else:
        said.append(f'your {constructor} stays, and decides on learning rate and decay of step sizes, too')
    return [*lines, f'optim_wrapper = dict({", ".join(settings)})'] if settings else []


def _learning_rate(wrapper: Mapping[str, Any]) -> Optional[float]:
    """Returns the learning rate of the one optimizer, None if there are several, or none that is a number."""
    optimizer = wrapper.get('optimizer')
    rate = optimizer.get('lr') if isinstance(optimizer, dict) else None
    return rate if is_number(rate) and rate > 0 else None


def _fixed_rates(cfg: Config, rate: float) -> List[str]:
    """Returns which schedules name learning rates above the new one, in words."""
    schedules = cfg.get('param_scheduler') or []
    return [
        f'your {type_name(schedule.get("type"))} has {key}={schedule[key]:g}, more than that: lower it in '
        f'param_scheduler'
        for schedule in (schedules if isinstance(schedules, list) else [schedules])
        for key in ('eta_min', 'eta_max')
        if isinstance(schedule, dict) and is_number(schedule.get(key)) and schedule[key] > rate
    ]


def _copy(cfg: Config) -> Config:
    """Returns a copy to build from, in one process."""
    copied = cfg.copy()
    copied.launcher = 'none'
    return copied


def _described(kind: Optional[str]) -> str:
    kinds = {'query': 'a query-based detector', 'classifier': 'a classifier', None: 'of a kind that is not known here'}
    return kinds.get(kind, f'a {kind} detector')


def _written(recipe: dict) -> str:
    return f'dict({", ".join(f"{key}={value!r}" for key, value in recipe.items())})'


def _start(
    cfg: Config, name: str, checkpoint: Optional[str], published: Optional[str]
) -> Tuple[str, str, Optional[str]]:
    """Returns the checkpoint that the new run starts from, what to say of it, and the same if it is not there."""
    if checkpoint is not None:
        if '://' not in checkpoint and not Path(checkpoint).is_file():
            raise MmacsError(
                f'there is no checkpoint {checkpoint}: name the trained weights of your config{misspelt(checkpoint)}'
            )
        return checkpoint, f'it starts from {checkpoint}, and is compared with it', None
    folder = cfg.get('work_dir') or f'work_dirs/{name}'
    found = latest_checkpoint(folder)
    if found is not None:
        return found, f'it starts from {found}, the last checkpoint of your run, and is compared with it', None
    if published is not None:
        about = f'it starts from the weights that are published for it, {published}, and is compared with them'
        return published, about, None
    length = cfg.train_cfg
    unit, end = ('epoch', length['max_epochs']) if 'max_epochs' in length else ('iter', length.get('max_iters', 12))
    expected = f'{folder}/{unit}_{end}.pth'
    return expected, f'it starts from {expected}, which is not there yet', expected


def _coreset(model: nn.Module, kind: Optional[str], train: Any, fraction: float, said: List[str]) -> str:
    """Returns the settings of the CoresetHook; a model that nothing scores gets repeated random."""
    share = f'{fraction:.0%} of the images in each epoch'
    if kind is not None:
        scorer = f'mmacs.{SCORERS[kind]}'
        settings = CoresetSettings.read(scorer=dict(type=scorer), preset='mmacs')
        try:
            settings.scorer.check(model, settings.scored_columns)
        except MmacsError as error:
            why = str(error)
        else:
            said.append(f'{share}, chosen by what {scorer} says of them')
            count = count_images(train, _FEW)
            if count is not None and count < _FEW:
                said.append(f'{count} training images are few, and choosing may take much of the time: {WAYS_OUT}')
            return f"type='mmacs.CoresetHook', scorer=dict(type={scorer!r})"
    else:
        why = f'nothing here scores images for {type(model).__name__}'
    said.append(f'{share}, drawn anew at random (rs2), since {why}')
    return "type='mmacs.CoresetHook', preset='rs2'"


def _load_once(file: Path) -> int:
    """Read a config, build its model and its hooks; returns the number of quantizers."""
    cfg = read_config(file)
    model = build_model(cfg)
    for hook in cfg.default_hooks.values():
        if isinstance(hook, dict) and str(hook.get('type')).startswith('mmacs.'):
            HOOKS.build(hook)
    return sum(1 for _ in quantizers(model))
