"""Layers get their few bits one after the other, from the input on: our reading of BiTAT (arXiv 2207.01394)."""

from typing import Dict, List, Optional

from mmengine.dist import broadcast
from mmengine.runner import Runner
from torch import nn

from mmacs.hooks.changing_bits import LayerBitsHook
from mmacs.hooks.quantization_hook import QuantizationHook, quantization_hook
from mmacs.hooks.run import unwrapped
from mmacs.quantization.learned_bits import change_bits
from mmacs.quantization.post_training.decorrelated import decorrelate
from mmacs.quantization.post_training.gpfq import layers_to_follow
from mmacs.quantization.quantizers.base import MAX_BITS
from mmacs.registry import HOOKS
from mmacs.teacher.side_effects import without_side_effects
from mmacs.utils.checks import require_switch, require_whole
from mmacs.utils.errors import MmacsError


@HOOKS.register_module()
class ProgressiveBitsHook(LayerBitsHook):
    """Bring layers to the bits of the recipe one after the other, from the input to the output (Park et al. 2022).

    Experimental: the abstract alone was at hand, and the rest is our reading. "Progressive layer-wise quantization from
    the bottom layer to the top, so that quantization at each layer reflects the quantized distributions of weights and
    activations at previous layers": layers start with ``first_bits``, near full precision, and over the first
    ``epochs`` of the run they go over to the recipe's bits, such as those of the preset ``w1a1``, as many at the start
    of each epoch as of any other, in the model's order. Their ranges are then calibrated anew on the network as it is.

    "We perform an orthonormal transformation of the weights at each layer by training an input-dependent correlation
    matrix and importance vector, such that each weight is disentangled from the others. Then, we quantize the weights
    based on their importance to minimize the loss of the information from the original weights/activations"
    (``decorrelate``): the levels of the layer's weights are chosen together, such that its outputs on the calibration
    images lose least, see :func:`~mmacs.quantization.post_training.decorrelated.decorrelated_levels`. Correlation and
    importance are those of the inputs; that nothing of the transformation is trained is where we leave the abstract.
    Weights train on from there.

    Layers with a role keep their bits, as do those that a rule of the recipe gives bits to.

    Args:
        epochs (int, optional): Epochs until the last layer has its bits. None takes half of the run.
        first_bits (int): Bits before, for layers that have fewer in the recipe. Defaults to 8.
        decorrelate (bool): Whether levels of weights are chosen together. Defaults to True. Of layers other than
            linear ones and convolutions with zero padding they are the nearest in any case.

    Raises:
        MmacsError: If an argument is out of range; when training starts, if nothing takes part, a quantizer can't
            change its bits, the run does not count epochs, is shorter or is compiled, or weights are averaged.
    """

    state_key = 'mmacs_progressive_bits'

    def __init__(self, epochs: Optional[int] = None, first_bits: int = 8, decorrelate: bool = True) -> None:
        super().__init__()
        if epochs is not None:
            require_whole('epochs', epochs)
        require_whole('first_bits', first_bits, most=MAX_BITS)
        require_switch('decorrelate', decorrelate)
        self.epochs = epochs
        self.first_bits = first_bits
        self.decorrelate = decorrelate
        self._last: Dict[str, int] = {}  # the recipe's bits

    def fewest_bits(self) -> int:
        """Returns the fewest bits that a quantizer may get."""
        return min(self._last.values())

    def start(self, model: nn.Module) -> None:
        """Start from many bits."""
        super().start(model)
        self._last, self._bits = self._bits, {layer: max(self.first_bits, bits) for layer, bits in self._bits.items()}
        change_bits(model, self._participants, self._bits)

    def before_train(self, runner: Runner) -> None:
        """Refuse a run that ends before all layers have their bits."""
        super().before_train(runner)
        if self.epochs is not None and self.epochs > runner.max_epochs:
            raise MmacsError(
                f'epochs={self.epochs} of ProgressiveBitsHook must be at most the {runner.max_epochs} epochs of the run'
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Bring the layers whose turn it is to their bits."""
        epochs = self.epochs or max(1, runner.max_epochs // 2)
        count = len(self._last) * min(runner.epoch + 1, epochs) // epochs
        due = [layer for layer in list(self._last)[:count] if self._bits[layer] != self._last[layer]]
        if due:
            self._move(runner, {**self._bits, **{layer: self._last[layer] for layer in due}})
            self._adapt(runner, due)

    def quantization_hook(self, runner: Runner) -> QuantizationHook:
        """Returns the hook of the run that calibrates."""
        return quantization_hook(runner)

    def _adapt(self, runner: Runner, due: List[str]) -> None:
        """Set ranges, and choose levels of weights, on the network as it is."""
        model, hook = unwrapped(runner), self.quantization_hook(runner)
        for layer in due:
            for name in self._participants[layer]:
                model.get_submodule(name).forget_range()
        hook.calibrate(runner)
        layers = {name: layer for name, layer in layers_to_follow(model).items() if name in due}
        if not self.decorrelate or not layers:
            return
        with without_side_effects(model):
            batches = hook.calibration_batches(runner)
            changed = decorrelate(model, layers, batches, lambda model, data: model(**data, mode='predict'))
        for layer in layers.values():
            broadcast(layer.weight.data)
        shares = ', '.join(f'{layer} {share:.1%}' for layer, share in changed.items())
        runner.logger.info(f'ProgressiveBitsHook: weights that took another level than the nearest: {shares}.')
