"""Checks what a checkpoint gave optimizers and schedules, which torch and MMEngine take over without a look."""

import math
from typing import Any, Iterable, Iterator

from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor
from torch.optim import Optimizer

from mmacs.utils.errors import MmacsError, printable

# Of torch's optimizers, all of the shape of their parameter.
_PER_ELEMENT = ('momentum_buffer', 'exp_avg', 'exp_avg_sq', 'max_exp_avg_sq', 'square_avg', 'grad_avg', 'sum')


def require_sound_states(optim_wrapper: Any, schedules: Any) -> None:
    """Require states that training can go on with.

    Args:
        optim_wrapper (OptimWrapper or OptimWrapperDict): Of a runner that has resumed.
        schedules (list, dict or None): Its parameter schedulers.

    Raises:
        MmacsError: If a setting of an optimizer is of another type than by default or is not finite, a moving average
            has not the shape of its parameter, or a schedule's method was replaced by a value.
    """
    for optimizer in _optimizers(optim_wrapper):
        _check_optimizer(optimizer)
    for schedule in _flat(schedules):
        for name, value in vars(schedule).items():
            if callable(getattr(type(schedule), name, None)) or (isinstance(value, float) and math.isnan(value)):
                raise _wrong(f'the schedule {type(schedule).__name__}', name, value)


def _check_optimizer(optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        for name, default in optimizer.defaults.items():
            if name in group and not _is_like(group[name], default):
                raise _wrong('the optimizer', name, group[name])
    for parameter, state in optimizer.state.items():
        for name in _PER_ELEMENT:
            found = state.get(name)
            if found is not None and (not isinstance(found, Tensor) or found.shape != parameter.shape):
                raise _wrong(f'the optimizer, for a parameter of {tuple(parameter.shape)},', name, found)


def _wrong(owner: str, name: str, value: Any) -> MmacsError:
    said = f'of {tuple(value.shape)}' if isinstance(value, Tensor) else printable(repr(value), 80)
    return MmacsError(f'cannot resume: in the checkpoint {owner} has {name} {said}')


def _is_like(value: Any, default: Any) -> bool:
    if isinstance(default, (list, tuple)):
        return isinstance(value, (list, tuple)) and len(value) == len(default) and all(map(_is_like, value, default))
    if isinstance(default, (bool, type(None))) or isinstance(value, Tensor):
        return True  # truth is asked of these alone
    if isinstance(default, (int, float)):
        return isinstance(value, (int, float)) and math.isfinite(value)
    return type(value) is type(default)


def _optimizers(wrapper: Any) -> Iterator[Optimizer]:
    if isinstance(wrapper, OptimWrapperDict):
        for part in wrapper.values():
            yield from _optimizers(part)
    elif isinstance(wrapper, OptimWrapper):
        yield wrapper.optimizer


def _flat(schedules: Any) -> Iterable[Any]:
    if isinstance(schedules, dict):
        return [schedule for part in schedules.values() for schedule in part]
    return schedules if isinstance(schedules, list) else ()
