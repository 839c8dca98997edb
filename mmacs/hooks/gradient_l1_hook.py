"""A penalty on gradients that makes later quantization cheap (Gradient L1, arXiv 2002.07520)."""

from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor, nn

from mmacs.hooks.nonfinite import skips_steps
from mmacs.hooks.run import unwrapped
from mmacs.quantization import quantizers
from mmacs.quantization.gradient_penalty import gradient_l1, require_differentiable
from mmacs.quantization.layer_inputs import watch_inputs
from mmacs.quantization.layers.base import quantizable_layers
from mmacs.registry import HOOKS
from mmacs.utils.checks import is_number
from mmacs.utils.errors import MmacsError, reason


@HOOKS.register_module()
class GradientL1Hook(Hook):
    """Train a full-precision model so that it loses little when it is rounded later (Alizadeh et al. 2020).

    To the loss L of each iteration comes ``weight * ||dL/dw||_1 + activation * ||dL/da||_1``, where w are the weights
    of all layers that can be quantized and a what they read, each layer for itself. Its gradient takes a second
    backward pass through the first, some two to three times the time and memory of a training step: load a trained
    model, and train it for a few more epochs with this hook. One set of weights then serves any bit-width.

    With gradient accumulation the penalty is that of each batch, and with several processes that of each process's own;
    with a loss scale gradients are computed at that scale. The norms are logged, as ``gradient_l1_weight`` and
    ``gradient_l1_activation``.

    The penalty is the paper's. That an activation counts once for each layer that reads it, as each layer has a
    quantizer of its own, and the default weights of the terms, are our reading.

    Args:
        weight (float): Lambda of the weights, at least 0. Defaults to 0.001.
        activation (float): Lambda of the activations, at least 0. Defaults to 0.001.

    Raises:
        MmacsError: If both are 0, or one is no number; when training starts, if the model is quantized already, is
            compiled, has no layer that can be quantized, or several optimizers; in the first iteration, if a part of
            the model can be differentiated once alone, as MMCV's RoIAlign and its losses for GPUs are.
    """

    priority = 'VERY_HIGH'  # outside of an iteration the model is as it was, for hooks that copy it

    def __init__(self, weight: float = 0.001, activation: float = 0.001) -> None:
        for name, value in (('weight', weight), ('activation', activation)):
            if not is_number(value) or value < 0:
                raise MmacsError(f'{name} of GradientL1Hook must be a number, at least 0, got {value!r}')
        if weight == activation == 0:
            raise MmacsError('GradientL1Hook with weight=0 and activation=0 does nothing: leave it out')
        self.weight = weight
        self.activation = activation
        self._inputs: List[Tensor] = []
        self._end: Optional[Callable[[], None]] = None
        self._tried = False

    def before_train(self, runner: Runner) -> None:
        """Refuse what can't work."""
        model = unwrapped(runner)
        if next(quantizers(model), None) is not None:
            raise MmacsError(
                'GradientL1Hook prepares a model for rounding, and this one is rounded already: train the '
                'full-precision model with it (recipe=None), and quantize the result'
            )
        if runner.cfg.get('compile'):
            raise MmacsError('GradientL1Hook differentiates twice, which compiled models cannot: leave out compile')
        if isinstance(runner.optim_wrapper, OptimWrapperDict):
            raise MmacsError('GradientL1Hook works with one optimizer, and this run has several')
        self._layers = quantizable_layers(model)
        if not self._layers:
            raise MmacsError(f'GradientL1Hook found no layer of {type(model).__name__} that can be quantized')

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Have the loss of this iteration extended."""
        self._detach(unwrapped(runner))
        self._attach(runner, unwrapped(runner))

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Leave the model as it was."""
        self._detach(unwrapped(runner))

    def _attach(self, runner: Runner, model: nn.Module) -> None:
        original = model.parse_losses

        def see(name: str, x: Tensor) -> Optional[Tensor]:
            if not (x.requires_grad and torch.is_grad_enabled()):
                return None
            self._inputs.append(x.view_as(x))  # this layer's own, whoever else reads the tensor
            return self._inputs[-1]

        def extended(losses: Dict[str, Any]) -> Tuple[Tensor, Dict[str, Tensor]]:
            loss, logged = original(losses)
            scaler = runner.optim_wrapper.loss_scaler if skips_steps(runner.optim_wrapper) else None
            penalty, norms = self._penalty(model, loss, 1.0 if scaler is None else scaler.get_scale())
            return loss + penalty, {**logged, 'loss': loss + penalty, **norms}

        if self.activation > 0:
            self._end = watch_inputs(model, self._layers, see)
        model.parse_losses = extended

    def _detach(self, model: nn.Module) -> None:
        self._inputs = []
        if self._end is not None:
            self._end()
            self._end = None
        vars(model).pop('parse_losses', None)

    def _penalty(self, model: nn.Module, loss: Tensor, scale: float) -> Tuple[Tensor, Dict[str, Tensor]]:
        layers = self._layers.items() if self.weight > 0 else ()
        found = (getattr(model.get_submodule(name), kind.weight_name) for name, kind in layers)
        weights = [weight for weight in found if weight.requires_grad]
        try:
            of_weights, of_activations = gradient_l1(loss, [weights, self._inputs], scale)
            penalty = self.weight * of_weights + self.activation * of_activations
            if not self._tried:
                require_differentiable(penalty)
                self._tried = True
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise MmacsError(
                f'GradientL1Hook differentiates the loss twice, which a part of {type(model).__name__} cannot: '
                f'{reason(error)}'
            ) from error
        norms = {'gradient_l1_weight': of_weights.detach(), 'gradient_l1_activation': of_activations.detach()}
        return penalty, norms
