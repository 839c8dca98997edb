"""The config that quantizes a model of a user's own, written for them: a few lines that inherit theirs."""

import os
from pathlib import Path
from typing import List, NamedTuple, Optional

from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import HOOKS
from torch import nn

from mmacs.adapters.base import adapter_of
from mmacs.adapters.kinds import ClassifierAdapter, DenseAdapter, QueryAdapter, TwoStageAdapter
from mmacs.cli.complexity import build_model
from mmacs.cli.config_file import read_config
from mmacs.cli.supported import SCORERS
from mmacs.coreset.settings import CoresetSettings
from mmacs.models.quantized_model import is_quantized
from mmacs.quantization import quantizers
from mmacs.quantization.named_recipes import named_recipe
from mmacs.utils.checkpoints import latest_checkpoint
from mmacs.utils.errors import MmacsError
from mmacs.utils.files import atomic_path, require_new

_KINDS = {
    DenseAdapter: 'one-stage',
    TwoStageAdapter: 'two-stage',
    QueryAdapter: 'query',
    ClassifierAdapter: 'classifier',
}


class Written(NamedTuple):
    """Lines of a config, and what they do, in words."""

    lines: List[str]
    said: List[str]


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
            or the one that it will end with.
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
    cfg = _inheritable(config, packaged)
    inherited = config if packaged else Path(os.path.relpath(base, file.parent)).as_posix()
    written = _lines(cfg, inherited, base.stem, checkpoint, recipe, fraction)
    with atomic_path(file) as temporary:
        temporary.write_text('\n'.join(written.lines) + '\n')
        layers = _load_once(temporary)
    return [
        f'wrote {file}: {len(written.lines)} lines that inherit {config}',
        *(f'- {line}' for line in written.said),
        f'- loaded once: the model builds, with {layers} quantizers',
        f'next: mmacs train {file}',
    ]


def _inheritable(config: str, packaged: bool) -> Config:
    """Returns a user's config.

    Raises:
        MmacsError: If it cannot be inherited, or has no model in full precision.
    """
    if packaged:
        try:
            cfg = get_config(config)
        except Exception as error:
            raise MmacsError(f'no such config: {config} ({error})') from error
    else:
        if Path(config).is_file() and Config._is_lazy_import(config):
            raise MmacsError(
                f'{config} is in the pure Python style of MMEngine (read_base), which a config with _base_ cannot '
                f"inherit: write it as text first, Config.fromfile({config!r}).dump('{Path(config).stem}_text.py')"
            )
        cfg = read_config(config)
    if not isinstance(cfg.get('model'), dict) or 'type' not in cfg.model:
        raise MmacsError(f'{config} has no model with a type: name the config that trains your model')
    if is_quantized(cfg.model):
        raise MmacsError(f'the model of {config} is quantized already: train it, mmacs train {config}')
    return cfg


def _lines(cfg: Config, inherited: str, name: str, checkpoint: Optional[str], named: str, fraction: float) -> Written:
    """Returns the lines of the new config.

    Args:
        cfg (Config): The user's.
        inherited (str): What ``_base_`` names.
        name (str): Of the user's config, which MMEngine calls its run.
        checkpoint (str, optional): See :func:`write_config`.
        named (str): The recipe, see :func:`write_config`.
        fraction (float): See :func:`write_config`.
    """
    recipe, kind_of_model = named_recipe(named), cfg.model.type
    model = build_model(_copy(cfg))
    lines, said = [f'_base_ = {inherited!r}', ''], []
    plugins = (cfg.get('custom_imports') or {}).get('imports') or []
    if plugins:
        theirs = '_base_.custom_imports.imports' if isinstance(plugins, str) else '*_base_.custom_imports.imports'
        lines.append(f"custom_imports = dict(imports=[{theirs}, 'mmacs'])")
        names = [plugins] if isinstance(plugins, str) else plugins
        said.append(f'{", ".join(names)} of your custom_imports stay, and mmacs is imported after them')
    else:
        lines.append("custom_imports = dict(imports=['mmacs'], allow_failed_imports=False)")
    start, about = _start(cfg, name, checkpoint)
    lines.append(f'load_from = {start!r}  # the trained weights in full precision, also the teacher')
    said.append(about)
    lines += ['', f"model = dict(type='mmacs.QuantizedModel', model={kind_of_model!r}, recipe={_written(recipe)})"]
    hooks = ["    quantization=dict(type='mmacs.QuantizationHook'),"]
    adapter = adapter_of(model)
    kind = next((kind for of, kind in _KINDS.items() if isinstance(adapter, of)), None)
    said.insert(0, f'{kind_of_model}, {_described(kind)}, is quantized by the recipe {named}')
    if fraction < 1:
        lines.append(
            f"train_dataloader = dict(sampler=dict(_delete_=True, type='mmacs.CoresetSampler', fraction={fraction:g}))"
        )
        hooks.append(f'    coreset=dict({_coreset(model, kind, fraction, said)}),')
        sampler = ((cfg.get('train_dataloader') or {}).get('sampler') or {}).get('type')
        if sampler not in ('DefaultSampler', None):
            said.append(f'mmacs.CoresetSampler takes the place of your {sampler}')
    lines += ['default_hooks = dict(', *hooks, ')']
    constructor = (cfg.get('optim_wrapper') or {}).get('constructor')
    if constructor in (None, 'DefaultOptimWrapperConstructor'):
        lines.append('# step sizes are not weights: they get no weight decay')
        lines.append("optim_wrapper = dict(constructor='mmacs.QuantizationOptimWrapperConstructor')")
    else:
        said.append(f'your {constructor} stays, and decides on learning rate and decay of step sizes, too')
    frozen = (cfg.model.get('backbone') or {}).get('frozen_stages', -1)
    if isinstance(frozen, int) and frozen > 0:
        said.append(
            f'backbone.frozen_stages={frozen} of yours freezes the step sizes of these stages, too; low bits usually '
            f'want -1'
        )
    return Written(lines, said)


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


def _start(cfg: Config, name: str, checkpoint: Optional[str]) -> tuple:
    """Returns the checkpoint that the new run starts from, and what to say of it."""
    if checkpoint is not None:
        if '://' not in checkpoint and not Path(checkpoint).is_file():
            raise MmacsError(f'there is no checkpoint {checkpoint}: name the trained weights of your config')
        return checkpoint, f'it starts from {checkpoint}, and is compared with it'
    folder = cfg.get('work_dir') or f'work_dirs/{name}'
    found = latest_checkpoint(folder)
    if found is not None:
        return found, f'it starts from {found}, the last checkpoint of your run, and is compared with it'
    length = cfg.get('train_cfg') or {}
    unit, end = ('epoch', length['max_epochs']) if 'max_epochs' in length else ('iter', length.get('max_iters', 12))
    expected = f'{folder}/{unit}_{end}.pth'
    return expected, f'it starts from {expected}, which is not there yet: train your config, or say --checkpoint'


def _coreset(model: nn.Module, kind: Optional[str], fraction: float, said: List[str]) -> str:
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
