"""State of a hook that a resumed run goes on from."""

from typing import Any, ClassVar, Dict, Optional

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmacs.utils.errors import MmacsError, printable


class KeptStateHook(Hook):
    """A hook whose state, a dict of plain values, is in each checkpoint.

    A subclass writes :meth:`state` and :meth:`take_state`, and says where in a checkpoint and by which words.
    """

    state_key: ClassVar[str]  # in a checkpoint
    state_name: ClassVar[str]  # such as 'the learned bits'

    _found: Optional[Any] = None  # what the checkpoint that was loaded holds

    def state(self) -> Dict[str, Any]:
        """Returns the state, as plain values."""
        raise NotImplementedError

    def take_state(self, runner: Runner, state: Dict[str, Any]) -> None:
        """Go on from a state that a checkpoint holds; what is wrong with it is an error, see :meth:`damaged`."""
        raise NotImplementedError

    def before_save_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Put the state into the checkpoint."""
        checkpoint[self.state_key] = self.state()

    def after_load_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Keep what a checkpoint holds until it is known whether the run is resumed."""
        self._found = checkpoint.get(self.state_key)

    def before_train(self, runner: Runner) -> None:
        """Take up the state if the run is resumed."""
        if runner.iter > 0:
            self.require_state()
            if not isinstance(self._found, dict):
                raise self.damaged(self._found)
            self.take_state(runner, self._found)

    def require_state(self) -> None:
        """Refuse to resume from a checkpoint without the state."""
        if self._found is None:
            raise MmacsError(f'cannot resume: the checkpoint was written by a run without {type(self).__name__}')

    def damaged(self, state: Any) -> MmacsError:
        """Returns the error for a state that is none."""
        return MmacsError(f'{self.state_name} in the checkpoint are damaged: {printable(repr(state), 200)}')
