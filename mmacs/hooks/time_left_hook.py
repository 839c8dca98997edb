"""Adds coming rounds to the time left that MMEngine logs."""

from typing import Any, Callable, Dict, Optional

from mmengine.hooks import Hook, IterTimerHook
from mmengine.runner import Runner

from mmacs.hooks.run import add_hook


class TimeLeftHook(Hook):
    """Adds to MMEngine's ``eta``, which knows the iterations alone, what rounds to come will take.

    Args:
        coming (Callable): Gives their seconds.
    """

    priority = 55  # after IterTimerHook (NORMAL, 50), which sets it, and before LoggerHook (BELOW_NORMAL, 60)

    def __init__(self, coming: Callable[[], float]) -> None:
        self.coming = coming

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Optional[Dict[str, Any]] = None
    ) -> None:
        """Adds them."""
        left = runner.message_hub.get_info('eta')
        if left is not None and any(isinstance(hook, IterTimerHook) for hook in runner.hooks):
            runner.message_hub.update_info('eta', left + self.coming())


def add_to_time_left(runner: Runner, coming: Callable[[], float]) -> None:
    """Has MMEngine's time left include these seconds from now on, in the place of those of a run before."""
    for hook in runner.hooks:
        if isinstance(hook, TimeLeftHook):
            hook.coming = coming
            return
    add_hook(runner, TimeLeftHook(coming))
