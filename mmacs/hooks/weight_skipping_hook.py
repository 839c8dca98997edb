"""Weights rest while accuracy does, which saves time (Weight Update Skipping, arXiv 2012.02792)."""

import math
import time
from dataclasses import asdict
from typing import Any, Dict, List, Optional, Tuple

from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner
from torch import nn

from mmacs.hooks.kept_state import KeptStateHook
from mmacs.hooks.run import unwrapped
from mmacs.quantization.weight_skipping import Skipping, resting_parameters
from mmacs.registry import HOOKS
from mmacs.utils.checks import is_number, is_whole, require_whole
from mmacs.utils.errors import MmacsError


@HOOKS.register_module()
class WeightUpdateSkippingHook(KeptStateHook):
    """While accuracy stagnates, train biases, norms and steps of activations alone (Safayenikoo and Akturk 2020).

    Experimental: the abstract alone was at hand, and the rest is our reading. "Improvement of accuracy shows temporal
    variations which allow us to skip updating weights when the variation is minuscule": once two validations in a row
    differ by no more than ``tolerance``, relative to the first of them, weights rest until ``window`` validations have
    passed, then train again at least to the next. "During such time windows, we keep updating bias", and with it what
    costs as little: scales and offsets of norms, steps of activations. "We selectively skip updating weights (and their
    time-consuming computations)": weights need no gradient then, nor do their steps, which are made of it. Their
    optimizer state stays as it is, and nothing decays. The learning rate is the schedule's, in both of the paper's
    methods.

    What that saves is logged: iterations with resting weights times the difference of the mean times of an iteration.
    Where norms don't train and there are no biases, the backward pass ends early too.

    A resumed run first does the validation that the killed one may not have come to, and goes on as if nothing had
    been.

    Args:
        metric (str, optional): Name of the validation metric, such as ``'accuracy/top1'``. None takes the first.
        tolerance (float): Share of the metric that is no change, at least 0. Defaults to 0.005.
        window (int): Validations for which weights rest. Defaults to 2.

    Raises:
        MmacsError: If an argument is out of range; when training starts, if there is no validation, nothing would be
            left to train, or several processes wait for the gradients of all parameters; after a validation, if it
            has no such metric.
    """

    priority = 'LOWEST'  # the model and the averages of it are ready when a resumed run validates
    state_key = 'mmacs_weight_skipping'
    state_name = 'the accuracy and times of weights that rest'

    def __init__(self, metric: Optional[str] = None, tolerance: float = 0.005, window: int = 2) -> None:
        if metric is not None and not isinstance(metric, str):
            raise MmacsError(f"metric must be the name of a validation metric such as 'accuracy/top1', got {metric!r}")
        if not is_number(tolerance) or tolerance < 0:
            raise MmacsError(f'tolerance must be a number, at least 0, got {tolerance!r}')
        require_whole('window', window)
        self.metric = metric
        self.tolerance = tolerance
        self.window = window
        self.skipping = Skipping()
        self._validated = 0  # iteration of the last validation
        self._iterations = {False: [0, 0.0], True: [0, 0.0]}  # number and seconds, by whether weights rest
        self._names: List[str] = []
        self._training = False
        self._since: Optional[float] = None

    # ---------------------------------------------------------------- state
    def state(self) -> Dict[str, Any]:
        """Returns what a resumed run goes on from."""
        trained, resting = self._iterations.values()
        return {**asdict(self.skipping), 'validated': self._validated, 'trained': trained, 'resting': resting}

    def take_state(self, runner: Runner, state: Dict[str, Any]) -> None:
        """Go on from a state."""
        if state.keys() != self.state().keys():
            raise self.damaged(state)
        previous, left, validated = state['previous'], state['left'], state['validated']
        counts = [state['trained'], state['resting']]
        sound = (previous is None or is_number(previous)) and is_whole(left) and left >= 0
        if not (sound and is_whole(validated) and all(map(_is_count, counts))):
            raise self.damaged(state)
        self.skipping, self._validated = Skipping(previous, min(left, self.window)), validated
        self._iterations = {False: list(counts[0]), True: list(counts[1])}

    # ---------------------------------------------------------------- what the run calls
    def before_train(self, runner: Runner) -> None:
        """Find out what rests; do what a killed run left undone."""
        if runner.val_loop is None:
            raise MmacsError('WeightUpdateSkippingHook follows validation, and this run has no val_dataloader')
        model = unwrapped(runner)
        self._names = resting_parameters(model)
        trained = sum(parameter.requires_grad for parameter in model.parameters())
        if not 0 < len(self._names) < trained:
            raise MmacsError(
                f'WeightUpdateSkippingHook found {trained} parameters that train, {len(self._names)} of them weights: '
                f'without both weights and others there is nothing to skip'
            )
        if is_model_wrapper(runner.model) and not getattr(runner.model, 'find_unused_parameters', False):
            raise MmacsError(
                'WeightUpdateSkippingHook in several processes needs find_unused_parameters=True in the config: '
                'otherwise they wait for the gradients of weights that rest'
            )
        super().before_train(runner)
        self._training = True
        self._rest(model)
        if runner.iter > 0 and self._validated != runner.iter and _validation_is_due(runner.train_loop, runner):
            runner.logger.info('WeightUpdateSkippingHook: the validation that the run did not come to comes first.')
            runner.val_loop.run()
            runner.model.train()

    def before_train_epoch(self, runner: Runner) -> None:
        """Count no time between epochs."""
        self._since = None

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Take the time of an iteration, from the end of the one before."""
        now = time.perf_counter()
        if self._since is not None:
            count = self._iterations[self.skipping.left > 0]
            count[:] = count[0] + 1, count[1] + now - self._since
        self._since = now

    def after_val_epoch(self, runner: Runner, metrics: Optional[Dict[str, float]] = None) -> None:
        """Decide whether weights rest until the next validation."""
        if not self._training:
            return
        name, accuracy = self._accuracy(metrics or {})
        before = self.skipping
        self.skipping = before.after(accuracy, self.tolerance, self.window)
        self._validated = runner.iter
        self._since = None
        if (before.left > 0) != (self.skipping.left > 0):
            self._rest(unwrapped(runner))
            rest = f'weights rest for {self.window} validation{"s" * (self.window > 1)}'
            what = rest if self.skipping.left else 'weights are trained again'
            was = '' if before.previous is None else f', was {before.previous:.4g}'
            runner.logger.info(f'{name} is {accuracy:.4g}{was}: {what}. {self._saved()}')

    def after_train(self, runner: Runner) -> None:
        """Log what was saved; leave the model as it was."""
        self._training = False
        _set_trained(unwrapped(runner), self._names, True)
        runner.logger.info(f'WeightUpdateSkippingHook: {self._saved()}')

    # ---------------------------------------------------------------- parts
    def _rest(self, model: nn.Module) -> None:
        _set_trained(model, self._names, self.skipping.left == 0)

    def _accuracy(self, metrics: Dict[str, float]) -> Tuple[str, float]:
        if not metrics:  # as of a detector that detects nothing yet
            return 'accuracy', math.nan
        name = next(iter(metrics)) if self.metric is None else self.metric
        if name not in metrics:
            raise MmacsError(
                f'WeightUpdateSkippingHook follows {name}, and validation gives {", ".join(metrics)}: name one of '
                f'these as its metric'
            )
        return name, float(metrics[name])

    def _saved(self) -> str:
        (trained, seconds), (resting, short) = self._iterations.values()
        if not (trained and resting):
            return f'Weights rested in {resting} of {trained + resting} timed iterations.'
        each, each_resting = seconds / trained, short / resting
        return (
            f'Weights rested in {resting} of {trained + resting} timed iterations, which saved '
            f'{resting * (each - each_resting):.1f} s: an iteration takes {each_resting:.4f} s instead of {each:.4f} s.'
        )


def _set_trained(model: nn.Module, names: List[str], trained: bool) -> None:
    for name in names:
        parameter = model.get_parameter(name)
        parameter.requires_grad_(trained)
        if not trained:
            parameter.grad = None  # accumulated so far, or an optimizer would take a step by it


def _validation_is_due(loop: BaseLoop, runner: Runner) -> bool:
    """Whether the run validates at the place at which it stands, and trains on after that."""
    by_epoch = not isinstance(loop, IterBasedTrainLoop)
    place, end = (runner.epoch, runner.max_epochs) if by_epoch else (runner.iter, runner.max_iters)
    loop._decide_current_val_interval()
    return loop.val_begin <= place < end and place % loop.val_interval == 0


def _is_count(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and is_whole(value[0]) and is_number(value[1])
