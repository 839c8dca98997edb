"""Bit-widths that follow a gradient while the network trains (AdaQAT, arXiv 2404.16876)."""

import copy
import math
from dataclasses import asdict, fields
from functools import partial
from typing import Any, Dict, List, Optional

import torch
from mmengine.dist import all_reduce
from mmengine.runner import Runner
from torch import Tensor, nn

from mmacs.hooks.changing_bits import ChangingBitsHook
from mmacs.hooks.run import unwrapped
from mmacs.quantization.learned_bits import (
    LearnedBits,
    change_bits,
    cost_gradient,
    relative_cost,
)
from mmacs.quantization.participants import participants, start_bits
from mmacs.quantization.recipe import ROLE_BITS
from mmacs.registry import HOOKS
from mmacs.teacher.side_effects import without_side_effects
from mmacs.utils.checks import is_number, is_whole, require_whole
from mmacs.utils.errors import MmacsError, printable

STATE_KEY = 'mmacs_adaptive_bits'


@HOOKS.register_module()
class AdaptiveBitsHook(ChangingBitsHook):
    """Learn the bit-width of the network's weights and that of its activations (AdaQAT, Gernigon et al. 2024).

    Both start at the recipe's bits, are real numbers N, and the network computes with ceil(N). Every ``interval``
    iterations each takes a step of gradient descent, N <- N - lr * (dL/dN + cost_weight * dH/dN), where

    - dL/dN = L(ceil N) - L(floor N): the training loss of the iteration's own batch, after its step, with the other
      kind's bits as they are, without distillation, averaged over processes;
    - H = max(C - target, 0), C the bit operations of the layers that take part relative to the start.

    N is fixed once it went back and forth over one integer ``max_crossings`` times, at the upper of the two bit-widths,
    and from ``freeze_epoch`` on at ceil(N). With a target both are what meets it: the lower where the upper would not,
    and neither of an oscillation far above it. The defaults, the normalisation of H, the target and the count of
    crossings are our reading: the paper's values were not at hand.

    Every loss is that of a deep copy of the model in the modes of training, so that a measurement leaves no trace in
    BatchNorm's statistics, ranges that follow the data, or counters in heads; random states are put back, and each
    loss is computed under the same one. It takes the memory of one more set of weights, and the time of up to three
    forwards. What becomes of ranges and of the optimizer's state is told in
    :class:`~mmacs.hooks.changing_bits.ChangingBitsHook`.

    What takes part is what has the recipe's main bits by default, see
    :func:`~mmacs.quantization.participants.participants`. The checkpoint holds N, and bits are set before its weights
    are loaded, to go on or to be evaluated: leave the hook in the config for both. Without the hook such a checkpoint
    loads in a recipe with the bits that are logged when training ends.

    Args:
        cost_weight (float): Lambda: how much loss all of the bit operations at the start are worth.
        target (float): Relative bit operations, from 0 to 1, at which to stop pressing; 0 presses for ever. From 8
            bits, 0.25 are those of 4-bit weights and activations.
        lr (float): Learning rate of N, in bits per unit of loss.
        interval (int): Iterations between steps of N.
        min_bits (int): Smallest bit-width. Defaults to 2.
        max_bits (int): Largest bit-width, at most the 8 bits that layers with a role keep: a recipe with more gives
            them more too. Defaults to 8.
        max_crossings (int): Crossings of one integer at which N is fixed.
        freeze_epoch (int, optional): Epoch, counted from 0, from which on bits are fixed; below ``max_epochs`` of a
            run by epochs. None lets them move to the end; some epochs with fixed bits are worth having.

    Raises:
        MmacsError: If an argument is out of range; when training starts, if nothing takes part, the recipe's bits are
            out of range, a quantizer can't change its bits, ``freeze_epoch`` never comes, or weights are averaged,
            since averages of steps of different bits are none.
    """

    state_key = STATE_KEY
    state_name = 'the learned bits'

    def __init__(
        self,
        cost_weight: float = 1.0,
        target: float = 0.0,
        lr: float = 0.2,
        interval: int = 10,
        min_bits: int = 2,
        max_bits: int = 8,
        max_crossings: int = 10,
        freeze_epoch: Optional[int] = None,
    ) -> None:
        for name, value, high in (('cost_weight', cost_weight, math.inf), ('lr', lr, math.inf), ('target', target, 1)):
            if not is_number(value) or not 0 <= value <= high:
                raise MmacsError(f'{name} must be a number, at least 0{" and at most 1" * (high == 1)}, got {value!r}')
        for name, value in (('interval', interval), ('max_crossings', max_crossings)):
            require_whole(name, value)
        if not (is_whole(min_bits) and is_whole(max_bits) and 1 <= min_bits < max_bits <= ROLE_BITS):
            raise MmacsError(
                f'min_bits and max_bits must be integers, 1 <= min_bits < max_bits <= {ROLE_BITS}, got {min_bits!r} '
                f'and {max_bits!r}'
            )
        super().__init__(freeze_epoch)
        self.cost_weight = cost_weight
        self.target = target
        self.lr = lr
        self.interval = interval
        self.limits = (min_bits, max_bits)
        self.max_crossings = max_crossings
        self.learned: Dict[str, LearnedBits] = {}

    @property
    def bits(self) -> Dict[str, int]:
        """Bits in use by kind, ``'weight'`` and ``'activation'``."""
        return _bits(self.learned)

    def find_participants(self, model: nn.Module) -> Dict[str, List[str]]:
        """Returns the names of the quantizers whose bits change, by kind."""
        return participants(model)

    def start(self, model: nn.Module) -> None:
        """Start from the bits of the recipe."""
        main = start_bits(model.recipe)
        self._start = {kind: main[kind] for kind in self._participants}
        self.learned = {kind: LearnedBits(float(bits)) for kind, bits in self._start.items()}

    def fewest_bits(self) -> int:
        """Returns the fewest bits that a quantizer may get."""
        return self.limits[0]

    # ---------------------------------------------------------------- state
    def state(self) -> Dict[str, Any]:
        """Returns the bit-widths, as plain values."""
        return {kind: asdict(learned) for kind, learned in self.learned.items()}

    def take_state(self, runner: Runner, state: Dict[str, Any]) -> None:
        """Take up bit-widths."""
        if state.keys() != self.learned.keys():
            raise MmacsError(
                f'the checkpoint has learned bits for {_listed(state)}, but the recipe leaves {_listed(self.learned)} '
                f'to learn: use the recipe that it was trained with'
            )
        self.learned = {kind: _learned(learned) for kind, learned in state.items()}

    # ---------------------------------------------------------------- what the run calls
    def before_train(self, runner: Runner) -> None:
        """Refuse what can't work before it costs time."""
        super().before_train(runner)
        low, high = self.limits
        for kind, learned in self.learned.items():
            if not low <= learned.bits <= high:
                raise MmacsError(
                    f'the {kind} starts at {learned.bits} bits, outside of min_bits={low} to max_bits={high}'
                )
        count = sum(map(len, self._participants.values()))
        runner.logger.info(f'Learning the bit-width of {count} quantizers, starting at {_described(self.learned)}.')

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Optional[dict] = None
    ) -> None:
        """Take a step of N if one is due."""
        if all(learned.frozen for learned in self.learned.values()):
            return
        if self.is_frozen(runner):
            self._freeze(runner)
        elif self.every_n_train_iters(runner, self.interval):
            self._step(runner, data_batch)

    def after_train(self, runner: Runner) -> None:
        """Log what was learned, and how to do without this hook."""
        changes = ', '.join(f'{kind}=dict(bits={bits})' for kind, bits in self.bits.items())
        runner.logger.info(
            f'Learned bit-widths: {_described(self.learned)}. Without AdaptiveBitsHook the checkpoint loads in the '
            f'same recipe with {changes}.'
        )
        cost = relative_cost(self.bits, self._start)
        if 0 < self.target < cost:
            runner.logger.warning(
                f'THE TARGET WAS NOT MET: {cost:.1%} of the bit operations at the start instead of {self.target:.1%}; '
                f'raise cost_weight, lr or freeze_epoch of AdaptiveBitsHook.'
            )

    # ---------------------------------------------------------------- parts
    def _step(self, runner: Runner, data_batch: Any) -> None:
        of_loss = self._loss_gradient(runner, data_batch)
        of_cost = cost_gradient(self.bits, self._start, self.target)
        moved = dict(self.learned)
        for kind, learned in self.learned.items():
            gradient = of_loss[kind] + self.cost_weight * of_cost[kind]
            moved[kind] = learned.step(gradient, self.lr, *self.limits)
        for kind, learned in moved.items():
            moved[kind] = learned.settle(self.max_crossings, partial(self._fits, _bits(moved), kind))
        self._move(runner, moved)

    def _freeze(self, runner: Runner) -> None:
        moved = dict(self.learned)
        for kind, learned in moved.items():
            moved[kind] = learned.freeze(partial(self._fits, _bits(moved), kind))
        self._move(runner, moved)

    def _fits(self, bits: Dict[str, int], kind: str, own: int) -> bool:
        """Whether the target, if there is one, is met with ``own`` bits for one kind and ``bits`` for the other."""
        return self.target == 0 or relative_cost({**bits, kind: own}, self._start) <= self.target

    def _move(self, runner: Runner, moved: Dict[str, LearnedBits]) -> None:
        before, self.learned = self.learned, moved
        change_bits(unwrapped(runner), self._participants, self.bits)
        cost = relative_cost(self.bits, self._start)
        if any((moved[kind].bits, moved[kind].frozen) != (old.bits, old.frozen) for kind, old in before.items()):
            runner.logger.info(f'Bit-widths: {_described(moved)}, {cost:.1%} of the bit operations at the start.')
        scalars = {f'bits/{kind}': learned.value for kind, learned in moved.items()}
        runner.visualizer.add_scalars({**scalars, 'bits/cost': cost}, step=runner.iter + 1)

    def _loss_gradient(self, runner: Runner, data_batch: Any) -> Dict[str, float]:
        """L(ceil N) - L(floor N) of each kind, the same on all processes."""
        candidates = {
            kind: {**self.bits, kind: learned.bits_below}
            for kind, learned in self.learned.items()
            if not learned.frozen and learned.bits_below < learned.bits
        }
        gradient = dict.fromkeys(self.learned, 0.0)
        if candidates:
            here = self._loss(runner, data_batch, self.bits)
            differences = torch.stack([here - self._loss(runner, data_batch, bits) for bits in candidates.values()])
            all_reduce(differences, 'mean')
            gradient.update(zip(candidates, differences.tolist()))
        if not all(map(math.isfinite, gradient.values())):
            raise MmacsError(
                f'the loss around {_described(self.learned)} bits is not finite: lower the learning rate, clip '
                f'gradients, or raise min_bits'
            )
        return gradient

    def _loss(self, runner: Runner, data_batch: Any, bits: Dict[str, int]) -> Tensor:
        """Training loss of a batch under given bits, a scalar; see the class for why on a copy."""
        model = copy.deepcopy(unwrapped(runner))
        change_bits(model, self._participants, bits)
        # no model is named: random states are put back, and the copy stays in the modes of training
        with without_side_effects(), runner.optim_wrapper.optim_context(model):
            data = model.data_preprocessor(copy.deepcopy(data_batch), True)
            losses = model(**data, mode='loss')
        return model.parse_losses(losses)[0]


def _bits(learned: Dict[str, LearnedBits]) -> Dict[str, int]:
    return {kind: each.bits for kind, each in learned.items()}


def _listed(kinds: Dict[str, Any]) -> str:
    return ' and '.join(kinds)


def _described(learned: Dict[str, LearnedBits]) -> str:
    """Such as ``weight 4 (3.62), activation 5 (fixed)``."""
    return ', '.join(
        f'{kind} {each.bits} ({"fixed" if each.frozen else f"{each.value:.2f}"})' for kind, each in learned.items()
    )


def _learned(state: Any) -> LearnedBits:
    """Returns what a checkpoint holds of a kind."""
    if not isinstance(state, dict) or state.keys() != {each.name for each in fields(LearnedBits)}:
        raise _damaged(state)
    found = LearnedBits(**state)
    crossings = found.crossings.items() if isinstance(found.crossings, dict) else [(None, None)]
    if not (is_number(found.value) and 1 <= found.value <= ROLE_BITS and isinstance(found.frozen, bool)):
        raise _damaged(state)
    if not all(is_whole(bits) and is_whole(count) for bits, count in crossings):
        raise _damaged(state)
    return found


def _damaged(state: Any) -> MmacsError:
    return MmacsError(f'the learned bits in the checkpoint are damaged: {printable(repr(state), 200)}')
