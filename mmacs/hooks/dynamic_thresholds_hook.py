"""Keeps the thresholds of Dynamic R-CNN (Zhang et al. 2020, arXiv 2004.06002) in checkpoints."""

from typing import Any, Dict, List

from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.runner import Runner

from mmacs.adapters.dynamic_thresholds import Thresholds, dynamic_thresholds, use_dynamic_thresholds
from mmacs.hooks.kept_state import KeptStateHook
from mmacs.hooks.run import add_hook, saves_checkpoint_now, unwrapped
from mmacs.registry import HOOKS
from mmacs.utils.errors import MmacsError


@HOOKS.register_module()
class DynamicThresholdsHook(KeptStateHook):
    """Has a resumed run of Dynamic R-CNN go on with its thresholds (Zhang et al. 2020).

    MMDetection's ``DynamicRoIHead`` raises the IoU above which a proposal is an object, and lowers the beta of its
    SmoothL1 loss, by what it saw in the last hundred iterations or so. Both, and what was seen since, are attributes of
    Python, which no checkpoint of MMDetection has. Each process has its own, and gets it back.

    :class:`mmacs.QuantizationHook` and :class:`mmacs.CoresetHook` put this hook into runs of such a model; a run
    without either names it itself.

    Raises:
        MmacsError: When training starts, if the model has no ``DynamicRoIHead``, or a checkpoint's thresholds are
            damaged.
    """

    state_key = 'mmacs_dynamic_thresholds'
    state_name = 'the thresholds of Dynamic R-CNN'

    def __init__(self) -> None:
        self._of_processes: List[Thresholds] = []

    def state(self) -> Dict[str, Any]:
        """Returns the thresholds of all processes, in their order."""
        return {'processes': self._of_processes}

    def take_state(self, runner: Runner, state: Dict[str, Any]) -> None:
        """Take up this process's thresholds; of another number of processes those of one that there was."""
        processes = state.get('processes')
        if not isinstance(processes, (list, tuple)) or not processes:
            raise self.damaged(state)
        use_dynamic_thresholds(unwrapped(runner), processes[get_rank() % len(processes)])

    def before_train(self, runner: Runner) -> None:
        """Take up the thresholds if the run is resumed."""
        if not dynamic_thresholds(unwrapped(runner)):
            raise MmacsError(
                f'DynamicThresholdsHook found no DynamicRoIHead in {type(unwrapped(runner)).__name__}: leave it out'
            )
        if runner.iter > 0 and self._found is None:
            runner.logger.warning('The checkpoint has no thresholds of Dynamic R-CNN: they start anew.')
        else:
            super().before_train(runner)
        self._gather(runner)

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Bring the thresholds together before a checkpoint, which the first process writes alone."""
        if saves_checkpoint_now(runner):
            self._gather(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Bring the thresholds together before a checkpoint."""
        self._gather(runner)

    def before_val(self, runner: Runner) -> None:
        """Bring the thresholds together before the checkpoint of a best metric."""
        self._gather(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Put the thresholds into the checkpoint."""
        if get_world_size() == 1:
            self._gather(runner)
        super().before_save_checkpoint(runner, checkpoint)

    def _gather(self, runner: Runner) -> None:
        self._of_processes = all_gather_object(dynamic_thresholds(unwrapped(runner)))


def keep_dynamic_thresholds(runner: Runner) -> None:
    """Put a :class:`DynamicThresholdsHook` into the run of such a model, once; to be called in ``before_run``."""
    has_one = any(isinstance(hook, DynamicThresholdsHook) for hook in runner.hooks)
    if not has_one and dynamic_thresholds(unwrapped(runner)):
        add_hook(runner, DynamicThresholdsHook())
