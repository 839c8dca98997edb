"""A resumed run follows its config where that differs from the checkpoint's, and says so."""

import copy
import warnings
from itertools import zip_longest
from typing import Any, Dict, List, NamedTuple, Optional, Set

from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import IterBasedTrainLoop, Runner

from mmacs.hooks.fraction import plan_epochs
from mmacs.hooks.run import add_hook, coreset_sampler

Settings = Dict[str, Any]

# What a scheduler's state holds beside its settings; base values are settings of the optimizer.
_PROGRESS = {'last_step', '_global_step', '_last_value', 'base_values', 'verbose', 'best', 'num_bad_epochs'}
_PROGRESS |= {'cooldown_counter'}
# How an optimizer computes, which is the machine's and the version's matter.
_FLAGS = {'foreach', 'fused', 'capturable', 'differentiable'}


class _Plan(NamedTuple):
    """What is to be done once MMEngine has taken up a checkpoint."""

    groups: List[Settings]  # parameter groups as the config has them, at the start of a run
    settings: Set[str]  # names of settings that are taken from these
    scheduled: Set[str]  # names of settings that schedulers change
    replay: bool  # whether the config's schedulers are brought to where the run stands
    said: List[str]


class ResumeHook(Hook):
    """Has a resumed run follow its config's optimizer settings and schedules.

    MMEngine takes both from the checkpoint, so that a longer run keeps the last learning rate of the shorter one. Here
    schedulers that differ are stepped from the start to where the run stands: the rest is that of a run that had this
    config from its start. What does not differ stays as the checkpoint has it, bit for bit.

    In any run it plans the epochs of a fraction that changes. :func:`follow_config` puts it into a run.
    """

    priority = 'LOWEST'

    def __init__(self) -> None:
        self._plan: Optional[_Plan] = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Compares while optimizer and schedulers are still the config's; takes out what is not to be loaded."""
        wrapper = runner.optim_wrapper
        if runner._resume and isinstance(wrapper, OptimWrapperDict):
            runner.logger.warning(
                'Resumed with the optimizers and schedules of the checkpoint, whatever this config says of them: those '
                'of several optimizers are not compared.'
            )
        if not runner._resume or not isinstance(wrapper, OptimWrapper) or isinstance(wrapper, OptimWrapperDict):
            return
        own, said, settings = runner.param_schedulers or [], [], set()
        groups = [{k: copy.deepcopy(v) for k, v in group.items() if k != 'params'} for group in wrapper.param_groups]
        saved = _groups(checkpoint.get('optimizer'))
        scheduled = {scheduler.param_name for scheduler in own} | {
            key.removeprefix('initial_') for key in (saved or [{}])[0] if key.startswith('initial_')
        }
        if saved is None or not _keeps_the_same(wrapper.optimizer.defaults, saved[0]):
            checkpoint.pop('optimizer', None)
            why = 'the checkpoint has no state of the optimizer' if saved is None else 'the optimizer is another one'
            said.append(f'{why}, and so starts anew')
        else:
            settings = {name for pair in zip(groups, saved) for name in _different(*pair)}
            said += [f'{name} is {_base(groups[0], name)}, was {_base(saved[0], name)}' for name in sorted(settings)]
        schedules = _different_schedules(own, checkpoint.get('param_schedulers') or [])
        replay = bool(schedules or settings & scheduled or 'optimizer' not in checkpoint)
        if replay and any(hasattr(scheduler, 'monitor') for scheduler in own):
            replay, settings = False, settings - scheduled
            schedules = ['a schedule that follows a metric goes on as it was, whatever this config says of schedules']
        elif replay:
            checkpoint.pop('param_schedulers', None)
        self._plan = _Plan(groups, settings - scheduled, scheduled, replay, said + schedules)

    def before_train(self, runner: Runner) -> None:
        """Plans epochs; brings optimizer and schedulers to where a resumed run stands."""
        plan_epochs(runner)
        plan, self._plan = self._plan, None
        if plan is None:
            return
        by_epoch = not isinstance(runner.train_loop, IterBasedTrainLoop)
        if (runner.epoch if by_epoch else runner.iter) >= (runner.max_epochs if by_epoch else runner.max_iters):
            runner.logger.warning('The checkpoint is of the end of this run: nothing is left to train.')
        groups = runner.optim_wrapper.param_groups
        scheduled = tuple(plan.scheduled) if plan.replay else ()  # with them initial_lr and the like
        for group, settings in zip(groups, plan.groups):
            group.update({k: v for k, v in settings.items() if k in plan.settings or k.endswith(scheduled)})
        if plan.replay:
            _replay(runner, by_epoch)
        if plan.said:
            values = ', '.join(f'{name} {groups[0][name]:.4g}' for name in sorted(plan.scheduled) if name in groups[0])
            runner.logger.warning(
                f'Resumed with other settings than those of the checkpoint: {"; ".join(plan.said)}. The run goes on as '
                f'if it had had those of this config from its start{f", with {values}" if values else ""}.'
            )


def follow_config(runner: Runner) -> None:
    """Puts a :class:`ResumeHook` into a run that has none yet."""
    if isinstance(runner, Runner) and not any(isinstance(hook, ResumeHook) for hook in runner.hooks):
        add_hook(runner, ResumeHook())


def _replay(runner: Runner, by_epoch: bool) -> None:
    """Steps schedulers that are at their start as often as MMEngine would have."""
    schedulers = runner.param_schedulers or []
    by_iteration = [scheduler for scheduler in schedulers if not scheduler.by_epoch]
    epochs, sampler = (runner.epoch if by_epoch else 1), coreset_sampler(runner)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # torch's: that no optimizer step was between
        for epoch in range(epochs):
            if by_epoch and sampler is not None:
                sampler.set_epoch(epoch)  # which may be of a size of its own
            iterations = len(runner.train_dataloader) if by_epoch else runner.iter
            for _ in range(iterations if by_iteration else 0):
                for scheduler in by_iteration:
                    scheduler.step()
            for scheduler in schedulers:
                if scheduler.by_epoch and by_epoch:
                    scheduler.step()


def _groups(state: Optional[Dict[str, Any]]) -> Optional[List[Settings]]:
    """Returns the parameter groups of an optimizer's state, as ``OptimWrapper.param_groups`` has them."""
    if not state:
        return None
    base = state.get('base_param_settings')
    return [*state['param_groups'], *([] if base is None else [base])]


def _keeps_the_same(defaults: Settings, saved: Settings) -> bool:
    """Returns whether an optimizer of these defaults keeps the same of each parameter as the one that was saved.

    Optimizers are told apart by the names of their numbers, which a saved parameter group has all of.
    """
    numbers = {k for k, v in defaults.items() if isinstance(v, (int, float, tuple)) and not isinstance(v, bool)}
    switches = ('amsgrad', 'centered', 'momentum')  # on which torch's optimizers keep more, or less
    return numbers <= saved.keys() and all(bool(defaults.get(k)) == bool(saved.get(k)) for k in switches)


def _base(group: Settings, name: str) -> Any:
    """Returns a setting as it was at the start of a run, before schedulers."""
    return group.get(f'initial_{name}', group[name])


def _different(asked: Settings, saved: Settings) -> Set[str]:
    names = {name for name in asked.keys() & saved.keys() if not name.startswith('initial_')} - _FLAGS - {'params'}
    return {name for name in names if not _same(_base(asked, name), _base(saved, name))}


def _different_schedules(own: List[Any], saved: List[Settings]) -> List[str]:
    """Returns what differs between the config's schedulers and a checkpoint's, in words."""
    found = []
    for scheduler, state in zip_longest(own, saved):
        if scheduler is None or state is None:
            return [*found, f'there are {len(own)} schedulers, were {len(saved)}']
        ours = scheduler.state_dict()
        names = sorted(
            name
            for name in (ours.keys() | state.keys()) - _PROGRESS
            if not callable(ours.get(name)) and not _same(ours.get(name), state.get(name))
        )
        if names:
            found.append(f'{type(scheduler).__name__} has another {", ".join(names)}')
    return found


def _same(one: Any, other: Any) -> bool:
    """Returns whether two plain values are equal; in a checkpoint tuples may be lists, and counters dicts."""
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return dict(one) == dict(other)
    return bool(one == other)
