"""Bit-widths solved anew from the gradients of bits while the network trains (BMPQ, arXiv 2112.13843)."""

from functools import partial
from typing import Any, Callable, Dict, List, Optional, Sequence

import torch
from mmengine.dist import all_reduce
from mmengine.runner import Runner
from torch import Tensor, nn

from mmacs.hooks.changing_bits import MeasuredBitsHook
from mmacs.hooks.nonfinite import skips_steps
from mmacs.hooks.run import unwrapped
from mmacs.hooks.weight_skipping_hook import WeightUpdateSkippingHook
from mmacs.quantization.analysis.bit_widths import bit_costs, choose, size_costs
from mmacs.quantization.bit_gradient import averaged, checked_sum, losses_of_bits, normalised, range_gradient
from mmacs.quantization.quantizers import Quantizer
from mmacs.quantization.quantizers.base import MAX_BITS
from mmacs.registry import HOOKS
from mmacs.utils.checks import is_number, is_whole, require_whole
from mmacs.utils.errors import MmacsError


@HOOKS.register_module()
class BitGradientHook(MeasuredBitsHook):
    """Give bits to the layers whose bits the loss feels most, under a budget, while the network trains (BMPQ 2022).

    Experimental: the abstract alone was at hand, and the rest is our reading. "A training method that uses bit
    gradients to analyze layer sensitivities": of each layer, the sum over its weights of the gradients of their bits,
    as shares of an epoch's sum, averaged over ``interval`` epochs. "It uses an integer linear program (ILP) to
    dynamically adjust the precision of layers during training, subject to a fixed hardware budget": after each interval
    the solver of ``choose_bits`` gives each layer one of the ``candidates``, so that the sum of what layers lose is
    smallest. "Requires a single training iteration but does not need a pre-trained baseline": one run, which starts
    from the bits of the recipe, whatever weights it starts from.

    Gradients are those of the rounded weights in all training images, and cost next to nothing. Layers with a role,
    and those that a rule of the recipe gives bits to, keep theirs. Sums of several processes are added.

    Args:
        mean_bits (float, optional): Largest mean bit-width of all quantized weights, above 0.
        size_mb (float, optional): Instead, largest size of the model in MB of 10^6 bytes.
        candidates (Sequence[int]): Bit-widths to choose from, at least two. Defaults to 2, 3, 4 and 8.
        interval (int): Epochs between two solutions. Defaults to 1.
        freeze_epoch (int, optional): See :class:`~mmacs.hooks.changing_bits.ChangingBitsHook`.

    Raises:
        MmacsError: If an argument is out of range, or there is not one budget; when training starts, if the budget
            can't be met, nothing takes part, a quantizer can't change its bits or has levels that no bits make up, the
            run does not count epochs or is compiled, ``freeze_epoch`` never comes, weights are averaged, or rest.
    """

    state_key = 'mmacs_bit_gradient'

    def __init__(
        self,
        mean_bits: Optional[float] = None,
        size_mb: Optional[float] = None,
        candidates: Sequence[int] = (2, 3, 4, 8),
        interval: int = 1,
        freeze_epoch: Optional[int] = None,
    ) -> None:
        super().__init__(freeze_epoch)
        budgets = {'mean_bits': mean_bits, 'size_mb': size_mb}
        given = {name: budget for name, budget in budgets.items() if budget is not None}
        for name, budget in given.items():
            if not is_number(budget) or budget <= 0:
                raise MmacsError(f'{name} must be a number above 0, got {budget!r}')
        if len(given) != 1:
            raise MmacsError(f'BitGradientHook needs mean_bits or size_mb, one of them, got {given or "none"}')
        listed = isinstance(candidates, (list, tuple)) and all(map(is_whole, candidates))
        if not listed or len(set(candidates)) < 2 or not 1 <= min(candidates) <= max(candidates) <= MAX_BITS:
            raise MmacsError(
                f'candidates must be a list of at least two bit-widths from 1 to {MAX_BITS}, got {candidates!r}'
            )
        require_whole('interval', interval)
        self.mean_bits = mean_bits
        self.size_mb = size_mb
        self.candidates = sorted(set(candidates))
        self.interval = interval

    def fewest_bits(self) -> int:
        """Returns the fewest bits that a quantizer may get."""
        return self.candidates[0]

    # ---------------------------------------------------------------- what the run calls
    def before_train(self, runner: Runner) -> None:
        """Refuse what can't work before it costs time."""
        super().before_train(runner)
        if any(isinstance(hook, WeightUpdateSkippingHook) for hook in runner.hooks):
            raise MmacsError('BitGradientHook needs gradients of weights, and WeightUpdateSkippingHook leaves them out')
        model = unwrapped(runner)
        for layer in self._bits:
            model.get_submodule(layer).weight_quantizer.grid()  # refused by those whose levels no bits make up
        self._solution(model, dict.fromkeys(self._bits, 0.0))  # refuses a budget that can't be met

    def begin(self) -> None:
        """Sum anew."""
        self._sums: Dict[str, Tensor] = {}

    def watch(self, runner: Runner) -> Callable[[], None]:
        """Have the gradients of an iteration looked at, and added when it ends."""
        scale = runner.optim_wrapper.loss_scaler.get_scale() if skips_steps(runner.optim_wrapper) else 1.0
        model, seen = unwrapped(runner), {}
        handles = [
            model.get_submodule(layer).weight_quantizer.register_forward_hook(partial(_watch, seen, layer, scale))
            for layer in self._bits
        ]

        def end() -> None:
            for handle in handles:
                handle.remove()
            for layer, found in seen.items():
                self._sums[layer] = checked_sum([*found, *([self._sums[layer]] if layer in self._sums else ())])

        return end

    def measured(self, runner: Runner) -> Dict[str, float]:
        """Returns the shares of an epoch."""
        zero = torch.zeros((), device=next(unwrapped(runner).parameters()).device)
        sums = torch.stack([self._sums.get(layer, zero) for layer in self._bits])
        all_reduce(sums)
        return normalised(dict(zip(self._bits, sums.tolist())))

    def next_bits(self, model: nn.Module) -> Optional[Dict[str, int]]:
        """Returns the solution if an interval is over."""
        return self._solution(model, averaged(self.epochs)) if len(self.epochs) >= self.interval else None

    # ---------------------------------------------------------------- parts
    def _solution(self, model: nn.Module, sensitivities: Dict[str, float]) -> Dict[str, int]:
        contributions, budget = (bit_costs, self.mean_bits) if self.size_mb is None else (size_costs, self.size_mb)
        costs, fixed_cost = contributions(model, list(self._bits), self.candidates)
        return choose(costs, losses_of_bits(sensitivities, self.candidates), fixed_cost, budget)


def _watch(
    seen: Dict[str, List[Tensor]], layer: str, scale: float, quantizer: Quantizer, args: Any, rounded: Tensor
) -> None:
    """Has the gradient of a rounded weight seen, once there is one."""
    if rounded.requires_grad and rounded is not args[0]:
        rounded.register_hook(partial(_see, seen, layer, scale, quantizer))


@torch.no_grad()
def _see(seen: Dict[str, List[Tensor]], layer: str, scale: float, quantizer: Quantizer, gradient: Tensor) -> None:
    found = range_gradient(gradient, quantizer.grid().step, quantizer.bits) / scale
    seen.setdefault(layer, []).append(found)
