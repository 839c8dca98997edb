"""The own losses of MMDetection's dense heads, of one image and without a trace."""

import sys
from contextlib import contextmanager
from typing import Any, Iterator, Sequence

import torch
from mmdet.models.utils import unpack_gt_instances
from mmengine.dist import get_world_size
from torch import Tensor, nn

from mmacs.utils.nested import tensors_of


def head_loss(head: nn.Module, outputs: Sequence[Any], sample: Any) -> Tensor:
    """Returns the sum of the loss terms of a head.

    Args:
        head (nn.Module): The head.
        outputs (Sequence): Its outputs, in the form of training, for one image.
        sample (DetDataSample): The image's annotations.

    Returns:
        Tensor: A scalar.
    """
    instances, ignored, metas = unpack_gt_instances([sample])
    terms = head.loss_by_feat(*outputs, instances, metas, ignored)
    return sum(term.sum() for name, value in terms.items() if 'loss' in name for term in tensors_of(value))


@contextmanager
def kept_buffers(module: nn.Module) -> Iterator[None]:
    """Put back all buffers afterwards: some losses, such as GHM's, keep statistics of what they have seen."""
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                buffer.copy_(before[name])


@contextmanager
def not_averaged(head: nn.Module) -> Iterator[None]:
    """Keep the head's loss from averaging its normalisers over processes, which score different images."""
    if get_world_size() == 1:
        yield
        return
    modules = {sys.modules[kind.__module__] for kind in type(head).__mro__}
    averages = {module: module.reduce_mean for module in modules if hasattr(module, 'reduce_mean')}
    try:
        for module in averages:
            module.reduce_mean = lambda tensor: tensor
        yield
    finally:
        for module, average in averages.items():
            module.reduce_mean = average
