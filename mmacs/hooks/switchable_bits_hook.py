"""One set of weights trained at several bit-widths (One Model for All Quantization, arXiv 2105.01353)."""

from typing import Any, Callable, Dict, Optional, Tuple

from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from torch import nn

from mmacs.adapters.base import Calls
from mmacs.adapters.kinds import TwoStageAdapter
from mmacs.distillation import Distiller
from mmacs.distillation.capture import Recorder
from mmacs.distillation.correspondence import student_adapter
from mmacs.hooks.coreset_hook import CoresetHook
from mmacs.hooks.distillation_hook import DistillationHook
from mmacs.hooks.run import unwrapped
from mmacs.hooks.weight_skipping_hook import WeightUpdateSkippingHook
from mmacs.quantization.switchable import at_bits, bit_widths, set_bits
from mmacs.registry import HOOKS
from mmacs.utils.checks import is_number
from mmacs.utils.errors import MmacsError


@HOOKS.register_module()
class SwitchableBitsHook(Hook):
    """Train one set of weights at all ``bit_widths`` of the recipe, to switch between them later (Sun et al. 2021).

    Experimental: of Sun et al. and of Double Rounding (arXiv 2502.01199) the abstracts alone were at hand, and the rest
    is our reading. "A model for all quantization that supports diverse bit-widths": each iteration runs its batch once
    at each width, the widest first, and adds up the losses, in one forward for all that is around the model, such as
    accumulation, mixed precision and several processes. Each width has steps and BatchNorm statistics of its own; all
    else is shared. "Hot-swappable": :func:`mmacs.set_bits` switches the trained model, without calibration.

    The narrower widths learn from the widest too, as in any-precision networks (Yu et al., arXiv 1911.07346): their
    losses get the terms of :class:`~mmacs.hooks.distillation_hook.DistillationHook`, whose teacher is what the widest
    has just predicted for the same images. No gradient flows into it.

    The paper's wavelet decomposition of weights is left out, as are the second rounding and the learning rates of
    Double Rounding. A step takes about as many times longer, and as much more memory, as there are widths.

    Losses are logged with their widths, as ``loss_cls_4bit``. Outside of training steps the model has one width, that
    of ``bits``: to validate, to score images, to be a teacher. The checkpoint holds all of them, whichever that is.

    Args:
        bits (int, optional): The width outside of training steps. None takes the widest.
        weight (float): Of the distillation terms, at least 0, for classifiers at most 1, whose loss against labels has
            ``1 - weight``; 0 trains each width by labels alone. Defaults to 0.5.
        temperature (float): Of the class distributions, above 0. Defaults to 1.0.

    Raises:
        MmacsError: If an argument is out of range; when the run starts, if the recipe has no such ``bit_widths``; when
            training starts, if the model can't be distilled (two-stage detectors can't, as each width has RoIs of its
            own), is compiled or recomputes activations in the backward pass, weights are averaged, or another hook
            looks into training steps.
    """

    priority = 'VERY_HIGH'  # outside of an iteration the model is as it was, for hooks that copy it

    def __init__(self, bits: Optional[int] = None, weight: float = 0.5, temperature: float = 1.0) -> None:
        if not is_number(weight) or weight < 0:
            raise MmacsError(f'weight of SwitchableBitsHook must be a number, at least 0, got {weight!r}')
        if not is_number(temperature) or temperature <= 0:
            raise MmacsError(f'temperature of SwitchableBitsHook must be a number above 0, got {temperature!r}')
        self.bits = bits
        self.weight = weight
        self.temperature = temperature
        self._distiller: Optional[Distiller] = None
        self._recorder: Optional[Recorder] = None

    # ---------------------------------------------------------------- what the run calls
    def before_run(self, runner: Runner) -> None:
        """Set the width that all but training steps have, before a checkpoint is loaded."""
        model = unwrapped(runner)
        widths = bit_widths(model)
        if not widths:
            raise MmacsError(
                'SwitchableBitsHook trains the bit_widths of a recipe, and this one has none: give the model '
                "recipe=dict(preset='w8a8', bit_widths=[8, 4, 2])"
            )
        set_bits(model, widths[0] if self.bits is None else self.bits)

    def before_train(self, runner: Runner) -> None:
        """Refuse what can't work before it costs time."""
        model = unwrapped(runner)
        if runner.cfg.get('compile'):
            raise MmacsError('SwitchableBitsHook exchanges steps, which compiled models do not see: leave out compile')
        for hook in runner.hooks:
            why = _conflict(hook)
            if why:
                raise MmacsError(f'SwitchableBitsHook does not go with {type(hook).__name__}, {why}')
        recomputed = next((name for name, module in model.named_modules() if getattr(module, 'with_cp', False)), None)
        if recomputed is not None:
            raise MmacsError(
                f'SwitchableBitsHook does not go with with_cp=True ({recomputed}), which computes activations again '
                f'when another width is set: leave out with_cp'
            )
        if self.weight > 0:
            self._prepare_distillation(model)
        widths = ', '.join(map(str, bit_widths(model)))
        runner.logger.info(f'Training at {widths} bits in each iteration.')

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Have the losses of this iteration be those of all widths."""
        model = unwrapped(runner)
        self._detach(model)
        original = model.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            mode = dict(zip(('inputs', 'data_samples', 'mode'), args)).get('mode', kwargs.get('mode'))
            if mode != 'loss':
                return original(*args, **kwargs)
            self._detach(model)
            try:
                return self._losses(model, lambda: model(*args, **kwargs))
            finally:
                model.forward = forward

        model.forward = forward

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Leave the model as it was."""
        self._detach(unwrapped(runner))

    # ---------------------------------------------------------------- parts
    def _detach(self, model: nn.Module) -> None:
        vars(model).pop('forward', None)

    def _losses(self, model: nn.Module, run: Callable[[], Dict[str, Any]]) -> Dict[str, Any]:
        """Returns the losses of all widths, by their names and widths."""
        found: Dict[str, Any] = {}
        of_widest: Optional[Calls] = None
        for bits in bit_widths(model):
            with at_bits(model, bits):
                losses, calls = self._recorded(run)
            if self._distiller is not None and of_widest is not None:
                losses = self._distiller.extended(losses, calls, of_widest)
            of_widest = of_widest or calls
            found.update({f'{name}_{bits}bit': value for name, value in losses.items()})
        return found

    def _recorded(self, run: Callable[[], Dict[str, Any]]) -> Tuple[Dict[str, Any], Optional[Calls]]:
        """Returns losses, and the calls of the model's heads."""
        if self._recorder is None:
            return run(), None
        self._recorder.start()
        try:
            losses = run()
        finally:
            calls = self._recorder.stop()
        return losses, calls

    def _prepare_distillation(self, model: nn.Module) -> None:
        without = 'weight=0 of SwitchableBitsHook trains each width by labels alone'
        try:
            adapter = student_adapter(model, same_start=True)
            if isinstance(adapter, TwoStageAdapter):
                raise MmacsError(f'the RoIs of a {type(model).__name__} differ from width to width')
            self._distiller = Distiller(model, model, weight=self.weight, temperature=self.temperature)
        except MmacsError as error:
            raise MmacsError(f'SwitchableBitsHook cannot distil this model: {error}; {without}') from error
        self._recorder = Recorder(model, adapter.heads)


def _conflict(hook: Hook) -> Optional[str]:
    """Returns why a hook can't be in the run, None if it can."""
    if isinstance(hook, EMAHook):
        return 'whose averages know one width alone: leave out EMAHook'
    if isinstance(hook, DistillationHook):
        return 'since the widest width is the teacher of the others: leave out DistillationHook'
    if isinstance(hook, WeightUpdateSkippingHook):
        return 'which lets the steps of one width rest: leave out WeightUpdateSkippingHook'
    settings = hook.settings if isinstance(hook, CoresetHook) else None
    if settings is not None and (settings.cost.harvest or settings.max_weight is not None):
        return 'whose harvest and unbiased look into training forwards, of which each width has one: leave out both'
    return None
