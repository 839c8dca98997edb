"""The same ranges in all processes, where they follow data of which each process sees its own part."""

from typing import List, Sequence

import torch
from torch import nn

from mmacs.quantization.convert import quantizers
from mmacs.quantization.processes import average, world_size
from mmacs.quantization.quantizers import Quantizer


def following_quantizers(model: nn.Module) -> List[Quantizer]:
    """Returns the quantizers of a converted model whose ranges follow activations."""
    return [found for _, found in quantizers(model) if found.kind == 'activation' and found.followed]


@torch.no_grad()
def synchronise_ranges(following: Sequence[Quantizer]) -> None:
    """Average over processes the ranges that follow activations, in place, by one collective operation.

    Between iterations and not in the forward pass: where a layer is called by some processes alone, as the mask head
    of a detector whose images hold no object is not, waiting for the others there would never end. All processes must
    call this.

    Args:
        following (Sequence[Quantizer]): See :func:`following_quantizers`, which looks through the whole model.
    """
    if not following or world_size() == 1:
        return
    ranges = [getattr(quantizer, name) for quantizer in following for name in quantizer.followed]
    flat = torch.cat(ranges)
    average(flat)
    for tensor, mean in zip(ranges, flat.split([tensor.numel() for tensor in ranges])):
        tensor.copy_(mean)
