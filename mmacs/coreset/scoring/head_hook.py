"""Per-image loss weights, and a look at the outputs, of a training forward: for any head, by one hook."""

from typing import Any, Callable, Optional

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmacs.utils.errors import MmacsError
from mmacs.utils.nested import mapped


class HeadHook:
    """Hooks the outputs of a head, such as a detector's ``bbox_head`` or a classifier's ``head``, in training.

    The gradient at the outputs is multiplied, image by image, by that image's weight. Where the loss is a sum of
    per-image terms over one common divisor (``avg_factor``), this is exactly the gradient of the sum of weighted terms
    over that same divisor, whatever the head and its losses are, and the losses that are logged stay unweighted. What
    does not pass through these outputs, such as a distillation loss on features, isn't weighted.

    No output may be computed from another one of the same call, or its weight would apply twice on the way back.

    It is attached for one iteration at a time, and while detached there is nothing of it on the model, so that copies
    and checkpoints of the model have nothing of it either.

    Args:
        module (nn.Module): Module whose forward gives a tensor, or nested tuples and lists of tensors, batch first.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._handle: Optional[RemovableHandle] = None

    def attach(self, weights: Optional[Tensor] = None, record: Optional[Callable[[Any], None]] = None) -> None:
        """Hooks the training forwards from now on; forwards in eval mode pass untouched.

        Args:
            weights (Tensor, optional): Weight of each image of the batch, not negative, float, shape (B,).
            record (Callable, optional): Called with the outputs of each forward, detached, before the loss sees them.
                They share memory with the originals: copy what is kept.
        """
        self.detach()

        def hook(module: nn.Module, args: Any, outputs: Any) -> None:
            if not module.training:
                return
            if record is not None:
                record(mapped(Tensor.detach, outputs))
            if weights is not None:
                mapped(lambda output: self._weight(output, weights), outputs)

        self._handle = self._module.register_forward_hook(hook)

    def detach(self) -> None:
        """Leave the module as it was."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _weight(self, output: Tensor, weights: Tensor) -> None:
        if output.ndim == 0 or len(output) != len(weights):
            raise MmacsError(
                f'loss weights need a head whose outputs are batch first: {type(self._module).__name__} gave shape '
                f'{tuple(output.shape)} for {len(weights)} images'
            )

        def scale(gradient: Tensor) -> Tensor:
            factors = weights.to(gradient.device, non_blocking=True).view(-1, *[1] * (gradient.ndim - 1))
            return (gradient * factors).to(gradient.dtype)  # half-precision gradients are rounded once, at the end

        if output.requires_grad:
            output.register_hook(scale)
