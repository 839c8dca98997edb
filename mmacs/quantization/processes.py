"""Processes that train together. Imports torch alone."""

import torch
from torch import Tensor


def world_size() -> int:
    """Returns the number of processes that train together; 1 without a process group."""
    return (
        torch.distributed.get_world_size()
        if torch.distributed.is_available() and torch.distributed.is_initialized()
        else 1
    )


def average(x: Tensor) -> None:
    """Put the mean over all processes in the place of a tensor's values; all of them must call it."""
    torch.distributed.all_reduce(x)
    x.div_(world_size())
