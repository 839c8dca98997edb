"""Bit-widths that follow the share of non-zero activations while the network trains (arXiv 2101.04354)."""

from typing import Callable, Dict, Optional

from mmengine.dist import all_reduce
from mmengine.runner import Runner
from torch import nn

from mmacs.hooks.changing_bits import MeasuredBitsHook
from mmacs.hooks.run import unwrapped
from mmacs.quantization.activation_density import DensityCount, bits_of_densities, densities, has_saturated
from mmacs.quantization.layer_inputs import watch_inputs
from mmacs.quantization.layers.base import quantizable_layers
from mmacs.registry import HOOKS
from mmacs.utils.checks import is_number, require_whole
from mmacs.utils.errors import MmacsError


@HOOKS.register_module()
class ActivationDensityHook(MeasuredBitsHook):
    """Take bits from layers whose activations are mostly zero, while the network trains (Vasquez et al. 2021).

    Experimental: the abstract alone was at hand, and the rest is our reading. "Activation Density (AD), the proportion
    of non-zero activations in a layer": of what a layer reads, before it is rounded, in all training images of an
    epoch. "Our method calculates bit-width for each layer during training": once no layer's density has moved by more
    than ``tolerance`` from one epoch to the next, each layer gets ``round(bits * density)`` bits, and the next two
    epochs are compared. "Since we train lower precision models during training", a run starts from many bits, such as
    W8A8. It goes on until densities are near 1, ``min_bits`` is reached, or ``freeze_epoch``.

    Layers without a ReLU before them, as most of a transformer, have a density of 1 and keep their bits, as do those
    with a role, and those that a rule of the recipe gives bits to. Counts of several processes are added.

    Args:
        tolerance (float): Change of density that is none, from 0 to 1. Defaults to 0.01.
        min_bits (int): Fewest bits of a layer. Defaults to 1.
        freeze_epoch (int, optional): See :class:`~mmacs.hooks.changing_bits.ChangingBitsHook`.

    Raises:
        MmacsError: If an argument is out of range; when training starts, if nothing takes part, a quantizer can't
            change its bits, the run does not count epochs or is compiled, ``freeze_epoch`` never comes, or weights are
            averaged.
    """

    state_key = 'mmacs_activation_density'

    def __init__(self, tolerance: float = 0.01, min_bits: int = 1, freeze_epoch: Optional[int] = None) -> None:
        super().__init__(freeze_epoch)
        if not is_number(tolerance) or not 0 <= tolerance <= 1:
            raise MmacsError(f'tolerance must be a number from 0 to 1, got {tolerance!r}')
        require_whole('min_bits', min_bits, most=16)
        self.tolerance = tolerance
        self.min_bits = min_bits

    def fewest_bits(self) -> int:
        """Returns the fewest bits that a quantizer may get."""
        return self.min_bits

    def begin(self) -> None:
        """Count anew."""
        self._count = DensityCount()

    def watch(self, runner: Runner) -> Callable[[], None]:
        """Have the inputs of an iteration counted."""
        kinds = quantizable_layers(unwrapped(runner))
        return watch_inputs(unwrapped(runner), {layer: kinds[layer] for layer in self._bits}, self._count.see)

    def measured(self, runner: Runner) -> Dict[str, float]:
        """Returns the densities of an epoch."""
        counts = self._count.counts(self._bits, next(unwrapped(runner).parameters()).device)
        all_reduce(counts)
        found = densities(self._bits, counts)
        runner.visualizer.add_scalars({'density/mean': sum(found.values()) / len(found)}, step=runner.iter)
        return found

    def next_bits(self, model: nn.Module) -> Optional[Dict[str, int]]:
        """Returns fewer bits if densities have saturated."""
        *_, before, now = [None, *self.epochs]
        if before is None or not has_saturated(before, now, self.tolerance):
            self.epochs = [now]
            return None
        bits = bits_of_densities(self._bits, now, self.min_bits)
        return None if bits == self._bits else bits
