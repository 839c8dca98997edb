"""Gradient L1 regularization (Alizadeh et al. 2020, arXiv 2002.07520): its penalty, without the run around it.

Rounding moves a value by at most half a step. Of a loss L whose values x move by at most delta, the first-order change
is at most ``delta * ||dL/dx||_1``: the L1 norm is the dual of the bound. Imports torch alone.
"""

from typing import List, Sequence

import torch
from torch import Tensor


def gradient_l1(loss: Tensor, groups: Sequence[Sequence[Tensor]], scale: float = 1.0) -> List[Tensor]:
    """L1 norms of the gradients of a loss, which can be differentiated once more.

    Args:
        loss (Tensor): A scalar, whose graph stays.
        groups (Sequence[Sequence[Tensor]]): Tensors that the loss depends on, of any floating dtype. What it does not
            depend on counts 0.
        scale (float): The gradients are computed of ``scale * loss``, and their norms divided by it: half precision
            has no smaller ones.

    Returns:
        List[Tensor]: The norm of each group, float32 scalars.

    Raises:
        RuntimeError: torch's, if the graph has a function that can be differentiated once alone.
    """
    tensors = [tensor for group in groups for tensor in group]
    found = iter(torch.autograd.grad(loss * scale, tensors, create_graph=True, allow_unused=True) if tensors else ())
    return [_l1([next(found) for _ in group], loss) / scale for group in groups]


def _l1(gradients: Sequence[Tensor], loss: Tensor) -> Tensor:
    norms = [gradient.float().abs().sum() for gradient in gradients if gradient is not None]
    return torch.stack(norms).sum() if norms else loss.new_zeros(())


def require_differentiable(penalty: Tensor) -> None:
    """Look through the graph of a penalty for gradients that have none themselves.

    ``torch.autograd.grad`` would leave out such a part in silence; ``backward`` fails there, with a traceback.

    Raises:
        RuntimeError: What torch says of the first such part.
    """
    left, seen = [penalty.grad_fn], {None}
    while left:
        node = left.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.name().rpartition('::')[2] in ('Error', 'DelayedError', 'NotImplemented'):
            node(*(torch.zeros(()) for _ in node._input_metadata))  # raises
        left += [before for before, _ in node.next_functions]
