"""The same ranges in all processes, where they follow data of which each process sees its own part."""

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import nn

from mmacs.quantization.convert import quantizers


@torch.no_grad()
def synchronise_ranges(model: nn.Module) -> None:
    """Average over processes the ranges that follow activations, in place, by one collective operation.

    Between iterations and not in the forward pass: where a layer is called by some processes alone, as the mask head
    of a detector whose images hold no object is not, waiting for the others there would never end. All processes must
    call this.

    Args:
        model (nn.Module): A converted model.
    """
    if get_world_size() == 1:
        return
    ranges = [
        getattr(quantizer, name)
        for _, quantizer in quantizers(model)
        if quantizer.kind == 'activation'
        for name in quantizer.followed
    ]
    if ranges:
        flat = torch.cat(ranges)
        all_reduce(flat, op='mean')
        for tensor, mean in zip(ranges, flat.split([tensor.numel() for tensor in ranges])):
            tensor.copy_(mean)
