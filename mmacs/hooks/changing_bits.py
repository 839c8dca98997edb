"""What hooks share that change bit-widths while the network trains."""

import copy
import json
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from mmengine.dist import is_main_process
from mmengine.hooks import EMAHook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn

from mmacs.hooks.kept_state import KeptStateHook
from mmacs.hooks.run import unwrapped
from mmacs.quantization.analysis.bit_widths import bit_costs, recipe_with_bits
from mmacs.quantization.learned_bits import change_bits, layer_participants
from mmacs.quantization.quantizers.base import MAX_BITS
from mmacs.quantization.switchable import bit_widths
from mmacs.utils.checks import is_number, is_whole, require_whole
from mmacs.utils.details import log_detail
from mmacs.utils.errors import MmacsError, printable
from mmacs.utils.files import write_whole


class ChangingBitsHook(KeptStateHook):
    """Changes the bit-widths of groups of quantizers.

    The checkpoint holds the bits, and they are set before its weights are loaded, to go on or to be evaluated: leave
    the hook in the config for both. When bits change, each quantizer's ``change_bits`` says what becomes of its range,
    and the optimizer's state stays: gradients of steps change by a factor of two per bit at most, which momentum
    forgets within some ten iterations.

    Args:
        freeze_epoch (int, optional): Epoch, counted from 0, from which on bits are fixed; below ``max_epochs`` of a
            run by epochs. None lets them change to the end; some epochs with fixed bits are worth having.
    """

    # After DistillationHook (VERY_HIGH, 10) has detached from the model that may be copied to be measured, and before
    # QuantizationHook (HIGH, 30) compares the bits of a checkpoint with the model's.
    priority = 20

    def __init__(self, freeze_epoch: Optional[int] = None) -> None:
        if freeze_epoch is not None:
            require_whole('freeze_epoch', freeze_epoch)
        self.freeze_epoch = freeze_epoch
        self._participants: Dict[str, List[str]] = {}

    # ---------------------------------------------------------------- to be written by each
    @property
    def bits(self) -> Dict[str, int]:
        """Bits in use by group."""
        raise NotImplementedError

    def find_participants(self, model: nn.Module) -> Dict[str, List[str]]:
        """Returns the names of the quantizers whose bits change, by group."""
        raise NotImplementedError

    def start(self, model: nn.Module) -> None:
        """Start from the bits of the recipe."""
        raise NotImplementedError

    def fewest_bits(self) -> int:
        """Returns the fewest bits that a quantizer may get."""
        raise NotImplementedError

    # ---------------------------------------------------------------- what the run calls
    def before_run(self, runner: Runner) -> None:
        """Find out who takes part."""
        self._prepare(unwrapped(runner))

    def after_load_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Take up the bits of a checkpoint before its weights are loaded."""
        super().after_load_checkpoint(runner, checkpoint)
        if self._found is None:
            return
        self._prepare(unwrapped(runner))
        if not isinstance(self._found, dict):
            raise self.damaged(self._found)
        self.take_state(runner, self._found)
        change_bits(unwrapped(runner), self._participants, self.bits)

    def before_train(self, runner: Runner) -> None:
        """Refuse what can't work before it costs time."""
        own = type(self).__name__
        if runner.iter > 0:
            self.require_state()
        if any(isinstance(hook, EMAHook) for hook in runner.hooks):
            raise MmacsError(
                f'{own} does not go with EMAHook, whose averages mix steps of different bits: average weights in a '
                f'second run that starts from the learned bits'
            )
        for other in runner.hooks:
            if isinstance(other, ChangingBitsHook) and other is not self:
                raise MmacsError(f'{own} and {type(other).__name__} both change bit-widths: keep one of them')
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        if self.freeze_epoch is not None and not (by_epoch and self.freeze_epoch < runner.max_epochs):
            raise MmacsError('freeze_epoch must be below max_epochs of an epoch-based run')
        model = unwrapped(runner)
        for names in self._participants.values():
            for name in names:
                # refused by those that can't
                copy.deepcopy(model.get_submodule(name)).change_bits(self.fewest_bits())

    # ---------------------------------------------------------------- parts
    def is_frozen(self, runner: Runner) -> bool:
        """Returns whether bits are fixed from now on."""
        return self.freeze_epoch is not None and runner.epoch >= self.freeze_epoch

    def _prepare(self, model: nn.Module) -> None:
        """Find out who takes part and start from the recipe's bits, once."""
        if self._participants:
            return
        own = type(self).__name__
        if not hasattr(model, 'recipe'):
            raise MmacsError(f"{own} found nothing quantized: wrap the model in type='mmacs.QuantizedModel'")
        if bit_widths(model):
            raise MmacsError(
                f'{own} changes bits, and bit_widths of the recipe trains the model at all of them: keep one of the two'
            )
        self._participants = self.find_participants(model)
        if not self._participants:
            raise MmacsError(f'{own} found no bit-width to learn: rules of the recipe give bits to every quantizer')
        self.start(model)


class LayerBitsHook(ChangingBitsHook):
    """Changes the bit-width of each layer between epochs.

    A layer's bits are those of its weight, and of its inputs where the recipe gives both the same and no other layer
    has the same quantizer, see :func:`~mmacs.quantization.learned_bits.layer_participants`. They change before an
    epoch, so that what is validated and saved was trained with the bits that it has. When training ends, the recipe
    with the bits that were found is ``<work dir>/recipe.json``: with it a checkpoint loads without the hook.
    """

    state_name = 'the bits of layers'

    def __init__(self, freeze_epoch: Optional[int] = None) -> None:
        super().__init__(freeze_epoch)
        self._bits: Dict[str, int] = {}

    # ---------------------------------------------------------------- groups
    @property
    def bits(self) -> Dict[str, int]:
        """Bits in use by layer."""
        return self._bits

    def find_participants(self, model: nn.Module) -> Dict[str, List[str]]:
        """Returns the names of the quantizers that have a layer's bits, by layer."""
        return layer_participants(model)

    def start(self, model: nn.Module) -> None:
        """Start from the bits of the recipe."""
        self._bits = {layer: model.get_submodule(names[0]).bits for layer, names in self._participants.items()}

    # ---------------------------------------------------------------- state
    def state(self) -> Dict[str, Any]:
        """Returns the bits."""
        return {'bits': dict(self._bits)}

    def take_state(self, runner: Runner, state: Dict[str, Any]) -> None:
        """Take up bits."""
        bits = state.get('bits')
        if state.keys() != self.state().keys() or not isinstance(bits, dict):
            raise self.damaged(state)
        if not all(is_whole(value) and 1 <= value <= MAX_BITS for value in bits.values()):
            raise self.damaged(state)
        if bits.keys() != self._bits.keys():
            different = next(iter(bits.keys() ^ self._bits.keys()))
            raise MmacsError(
                f'the checkpoint has bits for {len(bits)} layers, and the recipe leaves those of {len(self._bits)} to '
                f'change, of which {printable(str(different), 100)} is not in both: use the recipe that it was trained '
                f'with'
            )
        self._bits = dict(bits)

    # ---------------------------------------------------------------- what the run calls
    def before_train(self, runner: Runner) -> None:
        """Refuse what can't work before it costs time."""
        super().before_train(runner)
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise MmacsError(f'{type(self).__name__} counts epochs: train by epochs (by_epoch=True)')
        if runner.cfg.get('compile'):
            raise MmacsError(
                f'{type(self).__name__} looks into layers, which compiled models do not show: leave out compile'
            )
        mean = mean_bits(unwrapped(runner))
        runner.logger.info(f'Changing the bit-widths of {len(self._bits)} layers, starting at a mean of {mean:.2f}.')

    def after_train(self, runner: Runner) -> None:
        """Write the recipe that has the bits."""
        model, path = unwrapped(runner), Path(runner.work_dir) / 'recipe.json'
        free = {layer: [model.get_submodule(name) for name in names] for layer, names in self._participants.items()}
        if is_main_process():
            recipe = recipe_with_bits(model.recipe, self._bits, free)
            write_whole(path, json.dumps(recipe, indent=1).encode())
        runner.logger.info(
            f'Bit-widths at the end: {mean_bits(model):.2f} bits per quantized weight on average. Without '
            f'{type(self).__name__} the checkpoint loads with model.recipe={path}.'
        )

    # ---------------------------------------------------------------- parts
    def _move(self, runner: Runner, bits: Dict[str, int]) -> None:
        """Bring layers to other bits, and log which."""
        model, before, self._bits = unwrapped(runner), self._bits, bits
        change_bits(model, self._participants, bits)
        mean = mean_bits(model)
        changed = [f'{layer} {before[layer]} -> {new}' for layer, new in bits.items() if new != before[layer]]
        runner.logger.info(
            f'{type(self).__name__}: {len(changed)} of {len(bits)} layers change their bits; a quantized weight has '
            f'{mean:.2f} on average.'
        )
        if changed:
            log_detail(f'Bits of layers: {", ".join(changed)}')
        runner.visualizer.add_scalars({'bits/mean': mean}, step=runner.iter)


class MeasuredBitsHook(LayerBitsHook):
    """Changes the bit-width of each layer by what is measured of it in epochs."""

    def __init__(self, freeze_epoch: Optional[int] = None) -> None:
        super().__init__(freeze_epoch)
        self.epochs: List[Dict[str, float]] = []  # what was measured since bits last changed, by layer
        self._end: Callable[[], None] = _nothing

    # ---------------------------------------------------------------- to be written by each
    def begin(self) -> None:
        """Measure anew."""
        raise NotImplementedError

    def watch(self, runner: Runner) -> Callable[[], None]:
        """Measure in an iteration that is about to begin; returns what ends it."""
        raise NotImplementedError

    def measured(self, runner: Runner) -> Dict[str, float]:
        """Returns what was measured in an epoch, by layer, the same in all processes."""
        raise NotImplementedError

    def next_bits(self, model: nn.Module) -> Optional[Dict[str, int]]:
        """Returns the bits that follow from ``epochs``, None to measure on."""
        raise NotImplementedError

    # ---------------------------------------------------------------- state
    def state(self) -> Dict[str, Any]:
        """Returns bits, and what was measured since they changed."""
        return {**super().state(), 'epochs': [dict(epoch) for epoch in self.epochs]}

    def take_state(self, runner: Runner, state: Dict[str, Any]) -> None:
        """Take up bits, and what was measured."""
        bits, epochs = state.get('bits'), state.get('epochs')
        for epoch in epochs if isinstance(epochs, (list, tuple)) else [None]:
            sound = isinstance(epoch, dict) and isinstance(bits, dict) and epoch.keys() == bits.keys()
            if not sound or not all(is_number(value) and 0 <= value <= 1 for value in epoch.values()):
                raise self.damaged(state)
        super().take_state(runner, state)
        self.epochs = [dict(epoch) for epoch in epochs]

    # ---------------------------------------------------------------- what the run calls
    def before_train(self, runner: Runner) -> None:
        """Refuse what can't work; a run that starts from a checkpoint has measured nothing itself."""
        super().before_train(runner)
        if runner.iter == 0:
            self.epochs = []

    def before_train_epoch(self, runner: Runner) -> None:
        """Change bits if it is time; measure anew."""
        bits = self.next_bits(unwrapped(runner)) if self.epochs and not self.is_frozen(runner) else None
        if bits is not None:
            self._move(runner, bits)
            self.epochs = []
        self.begin()

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Measure in this iteration."""
        self._end()
        self._end = _nothing if self.is_frozen(runner) else self.watch(runner)

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Leave the model as it was."""
        self._end()
        self._end = _nothing

    def after_train_epoch(self, runner: Runner) -> None:
        """Keep what was measured."""
        if not self.is_frozen(runner):
            self.epochs.append(self.measured(runner))


def _nothing() -> None:
    pass


def mean_bits(model: nn.Module) -> float:
    """Returns the mean bit-width of all quantized weights of a model."""
    return bit_costs(model, [], [])[1]
