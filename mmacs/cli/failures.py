"""What MMEngine was doing for the user when it failed: which part of the config it built, which weights it loaded.

MMEngine builds a whole run from a config, and what a constructor raises names neither key nor value. Both are known:
the traceback leads through MMEngine's own functions, which have the section, the registry or the file in hand. So what
was given is read from there, and no text of an exception is ever searched.
"""

import inspect
import sysconfig
import traceback
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional

import torch
from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.model import BaseDataPreprocessor, BaseTTAModel
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import Registry, build_from_cfg, build_runner_from_cfg
from mmengine.runner import BaseLoop, CheckpointLoader, Priority, Runner, get_priority
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

import mmacs
from mmacs.datasets.image_files import failed_transform
from mmacs.utils.errors import MmacsError, nearest, reason, shortened, unknown_setting

_STANDARD = Path(sysconfig.get_path('stdlib'))
_OWN = str(Path(mmacs.__file__).parent)
_OWN_LAYERS = str(Path(_OWN) / 'quantization' / 'layers')
_LOAD = inspect.unwrap(CheckpointLoader.load_checkpoint.__func__).__code__
_LOADER = Runner.build_dataloader.__code__
# What the methods of a runner build, or their arguments come from.
_SECTIONS = {
    'setup_env': 'env_cfg',
    'set_randomness': 'randomness',
    'build_logger': 'log_level',
    'build_log_processor': 'log_processor',
    'build_visualizer': 'visualizer',
    'build_model': 'model',
    'wrap_model': 'model_wrapper_cfg',
    'register_default_hooks': 'default_hooks',
    'register_custom_hooks': 'custom_hooks',
    'build_train_loop': 'train_cfg',
    'build_val_loop': 'val_cfg',
    'build_test_loop': 'test_cfg',
    'build_evaluator': 'val_evaluator or test_evaluator',
    'build_optim_wrapper': 'optim_wrapper',
    'build_param_scheduler': 'param_scheduler',
    'scale_lr': 'auto_scale_lr',
}
_LIBRARIES = ('mmengine', 'mmdet', 'mmpretrain', 'mmacs')
_LAYERS = (_ConvNd, nn.Linear, _BatchNorm, nn.LayerNorm, nn.GroupNorm)


class _Place(NamedTuple):
    """A part of a config: its key, such as ``'model.backbone'``, and what it holds; the key may be unknown."""

    key: str
    value: Any

    def __str__(self) -> str:
        kind = self.value.get('type') if isinstance(self.value, dict) else None
        kind = getattr(kind, '__name__', kind)
        return ' '.join(part for part in (self.key, f'({kind})' if self.key and kind else str(kind or '')) if part)


def failure(error: BaseException) -> Optional[str]:
    """Returns one sentence about what MMEngine failed to do with what a user gave; None for any other exception."""
    error, frames = _unwound(error)
    misfit = _misfit(error, frames)
    if misfit is not None:
        return misfit
    if not frames or frames[-1].f_code.co_filename.startswith(_OWN):
        return None  # a mistake of a user is told where it is found: this is one of ours
    sentence = _sentence(error, frames)
    file = Path(frames[-1].f_code.co_filename)
    of_library = 'site-packages' in file.parts or not file.exists() or _STANDARD in file.parents
    if sentence is None or of_library:
        return sentence
    *_, (_, line) = traceback.walk_tb(error.__traceback__)
    return f'{sentence} ({file}, line {line})'  # code of the user's own


def _sentence(error: BaseException, frames: List[FrameType]) -> Optional[str]:
    places = _places(frames)
    for frame, place in zip(reversed(frames), reversed(places)):
        local = frame.f_locals
        if frame.f_code is build_from_cfg.__code__:
            return _of_building(frame, frames[-1], place, error)
        if frame is frames[-1] and frame.f_code is build_runner_from_cfg.__code__:
            return _unknown_type(local['registry'], local['cfg']['runner_type'], _Place('', None))
        if frame.f_code is _LOAD:
            return _of_loading(local['filename'], _config(frames), error)
        if frame.f_code is get_priority.__code__:
            names = ', '.join(one.name for one in Priority)
            return f'priority={local["priority"]!r} of a hook must be a number from 0 to 100, or one of {names}'
        of_transform = failed_transform(frame, error)
        if of_transform is not None:
            return of_transform
        in_loop = isinstance(local.get('self'), BaseLoop) and frame.f_code.co_name != '__init__'
        if frame is frames[-1] and in_loop:
            return f'{type(local["self"]).__name__} does not work as it is set: {reason(error)}'
        if isinstance(local.get('self'), BaseTTAModel):
            return (
                f'test-time augmentation does not work: {reason(error)}; tta_model and tta_pipeline (which ends with '
                f'TestTimeAug) have to go with the model and with each other'
            )
        if frame.f_code in (ConfigDict.__getattr__.__code__, ConfigDict.__missing__.__code__):
            return f'the config has no {local["name"]}, which is needed here'
        if frame.f_code is DefaultOptimWrapperConstructor.__call__.__code__ and local.get('optimizer_cls', ...) is None:
            return _unknown_type(
                local['registry'], local['optimizer_cfg']['type'], _Place('optim_wrapper.optimizer', None)
            )
        if frame.f_code is OptimWrapper._clip_grad.__code__:
            return f'optim_wrapper.clip_grad={local["self"].clip_grad_kwargs} does not work: {reason(error)}'
        if _is_runner(frame) and frame.f_code.co_name in ('resume', 'load_checkpoint'):
            return f'cannot load the checkpoint {local.get("filename")}: {reason(error)}'
        if _is_runner(frame) and frame.f_code.co_name in _SECTIONS or frame.f_code is _LOADER:
            return f'{_given(place, _config(frames))} does not work: {reason(error)}'
        if frame.f_code is Runner.call_hook.__code__ and _raised_by(local['hook'], frames[-1]):
            return f'{type(local["hook"]).__name__} does not work as it is set: {reason(error)}'
        if frame.f_code in (Runner.__init__.__code__, Runner.from_cfg.__func__.__code__):
            return f'this config makes no run: {reason(error)}'
    return None


def _misfit(error: BaseException, frames: List[FrameType]) -> Optional[str]:
    """Returns which layer, or the preprocessor, does not fit what the model gives it, None for any other exception."""
    modules = [frame.f_locals['self'] for frame in frames if isinstance(frame.f_locals.get('self'), nn.Module)]
    file = frames[-1].f_code.co_filename if frames else _OWN
    ours = file.startswith(_OWN) and not file.startswith(_OWN_LAYERS)
    kinds = (RuntimeError, ValueError, AssertionError, KeyError)
    if not modules or ours or not isinstance(error, kinds) or isinstance(error, (MmacsError, torch.OutOfMemoryError)):
        return None
    last = modules[-1]
    preprocessor = isinstance(last, BaseDataPreprocessor)
    if not preprocessor and not isinstance(last, _LAYERS):
        return None
    names = {module: name for outer in reversed(modules) for name, module in outer.named_modules()}
    key = '.'.join(part for part in ('model', names[last] or ('data_preprocessor' if preprocessor else '')) if part)
    return f'{key} ({type(last).__name__}) does not fit the images or layers before it: {reason(error)}'


def _unwound(error: BaseException) -> tuple:
    """Returns the exception that was raised first, where MMEngine raised another of its type for it, and all frames."""
    frames = _frames(error)
    while (
        frames
        and frames[-1].f_code in (build_from_cfg.__code__, Runner.call_hook.__code__)
        and type(error.__context__) is type(error)
    ):
        error = error.__context__
        frames += _frames(error)
    return error, frames


def _frames(error: BaseException) -> List[FrameType]:
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)]


def _is_runner(frame: FrameType) -> bool:
    return isinstance(frame.f_locals.get('self'), Runner)


def _raised_by(hook: Hook, last: FrameType) -> bool:
    """Returns whether a library's hook itself raised, not what it called."""
    files = {inspect.getfile(base) for base in type(hook).__mro__[:-1]}
    return type(hook).__module__.partition('.')[0] in _LIBRARIES and last.f_code.co_filename in files


def _config(frames: List[FrameType]) -> Config:
    """Returns the whole config, empty if no function had it."""
    for frame in frames:
        for value in frame.f_locals.values():
            cfg = vars(value).get('cfg') if isinstance(value, Runner) else value
            if isinstance(cfg, Config):
                return cfg
    return Config()


def _places(frames: List[FrameType]) -> List[_Place]:
    """Returns for each frame the part of the config that was being built there, from the outermost to the innermost."""
    found, place = [], _Place('', _config(frames)._cfg_dict)
    for frame in frames:
        if _is_runner(frame) and frame.f_code.co_name in _SECTIONS:
            key = _SECTIONS[frame.f_code.co_name]
            place = _Place(key, None)
        elif frame.f_code in (build_from_cfg.__code__, _LOADER):
            section = frame.f_locals['cfg' if frame.f_code is build_from_cfg.__code__ else 'dataloader']
            within = dict(parts(_config(frames)._cfg_dict))
            keys = [key for key, value in within.items() if isinstance(value, dict) and value == section]
            keys = [key for key in keys if key.startswith(place.key)] or keys
            place = _Place(keys[0] if keys else place.key, section)
        found.append(place)
    return found


def _given(place: _Place, config: Config) -> str:
    """Returns the key of a part, and its value if that is short."""
    value = dict(config._cfg_dict).get(place.key)
    short = value is not None and not isinstance(value, (dict, list)) or len(repr(value)) < 60
    return f'{place.key}={value!r}' if value is not None and short else str(place)


def parts(value: Any, key: str = '') -> Iterator[tuple]:
    """All parts of a config with their keys, written as in ``--cfg-options``: outer parts before what is in them."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for name, part in inner:
        own = f'{key}.{name}' if key else str(name)
        yield own, part
        yield from parts(part, own)


# ---------------------------------------------------------------- building
def _of_building(frame: FrameType, last: FrameType, place: _Place, error: BaseException) -> str:
    local = frame.f_locals
    section, registry, kind = local['cfg'], local['registry'], local.get('obj_cls')
    if not isinstance(section, dict) or 'type' not in section and 'type' not in (local.get('default_args') or {}):
        where = f'{place.key}: ' if place.key else ''
        return f'{where}a {registry.name} must be a dict with a type, got {shortened(section)}'
    if kind is None and last.f_code in (build_from_cfg.__code__, Registry.get.__code__):  # it is not found
        return _unknown_type(registry, section['type'], place)
    if kind is not None and isinstance(error, TypeError) and (last is frame or last.f_code.co_name == '__init__'):
        known = _parameters(kind)
        given = [name for name in local['args'] if name not in known]
        if given:
            return str(unknown_setting(_name(kind), given[0], known))
        missing = [name for name, needed in known.items() if needed and name not in local['args']]
        if missing:
            return f'{place} lacks {" and ".join(missing)}'
    return f'cannot build {place}: {reason(error)}'


def _name(kind: Callable) -> str:
    return getattr(kind, '__name__', str(kind))


def _parameters(kind: Callable) -> Dict[str, bool]:
    """Returns what a class is built from, its bases' arguments among them, and which of it has no default."""
    bases = [base.__init__ for base in kind.__mro__ if '__init__' in vars(base)] if inspect.isclass(kind) else [kind]
    found: Dict[str, bool] = {}
    for number, base in enumerate(bases):
        try:
            parameters = inspect.signature(base).parameters.values()
        except ValueError:  # of some functions written in C
            continue
        for one in parameters:
            if one.name != 'self' and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
                found.setdefault(one.name, number == 0 and one.default is one.empty)
    return found


def _unknown_type(registry: Registry, kind: object, place: _Place) -> str:
    """Returns a sentence with the nearest type, in the scope that it is of."""
    where = f' in {place.key}' if place.key else ''
    if not isinstance(kind, str):
        return f'the type of a {registry.name}{where} must be a name or a class, got {kind!r}'
    known = dict(_known_types(registry))
    scope, _, own = kind.rpartition('.')
    start = f'unknown {registry.name} {kind!r}{where}'
    elsewhere = [name for name in known if name.rpartition('.')[2] == own]
    if elsewhere:
        return f'{start}: it is one of {known[elsewhere[0]]}, write type={elsewhere[0]!r}'
    # of the library that was named, else those that need no name of a library, and ours
    of_scope = [name for name, library in known.items() if library == scope]
    names = of_scope or [name for name in known if '.' not in name or name.startswith('mmacs.')]
    by_own_name = {name.rpartition('.')[2]: name for name in reversed(names)}
    near = nearest(own, by_own_name, cutoff=0.7)
    if near is not None:
        return f'{start}: did you mean {by_own_name[near]!r}?'
    return f'{start}: is the module that registers it in custom_imports?'


def _known_types(registry: Registry) -> Iterator[tuple]:
    """Types that a registry finds, as it is written there, and the library of each; those of other libraries too."""
    root = registry._get_root_registry()
    for library in _LIBRARIES:  # all that are installed, also where nothing has used them yet
        if find_spec(library) is not None:
            import_module(f'{library}.registry')
    reachable = {registry.scope, root.scope}
    for scope, found in {root.scope: root, **root.children}.items():
        found.import_from_location()
        for name in found.module_dict:
            yield (name if scope in reachable else f'{scope}.{name}'), scope


# ---------------------------------------------------------------- loading
def _of_loading(file: str, config: Config, error: BaseException) -> str:
    keys = [key for key, value in parts(config._cfg_dict) if isinstance(value, str) and value == file]
    key = keys[0] if keys else None
    of = f' of {key}' if key else ''
    instead = f'put a file there and set {key} to it' if key else 'give a file in their place'
    if isinstance(error, FileNotFoundError):
        return f'the weights {file}{of} are missing: {instead}'
    if isinstance(error, OSError) and '://' in file:
        return (
            f'cannot fetch the weights {file}{of} ({reason(error)}): without a connection, download them elsewhere, '
            f'{instead}'
        )
    return f'cannot load the weights {file}{of}: {reason(error)}'
