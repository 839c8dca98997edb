"""Tensors of any layout as rows of their memory, in pieces that stay in a processor's cache. Imports torch alone."""

from typing import Iterator, Tuple

import torch
from torch import Tensor

PIECE = 2**16  # elements; with a result and a temporary of its size it fits the second-level cache of a CPU


def memory_rows(x: Tensor, n: int = 1) -> Tuple[Tensor, Tensor]:
    """Returns a tensor, and its elements as rows in the order of its memory, whatever its layout.

    Args:
        x (Tensor): Contiguous, ``channels_last``, transposed: anything without gaps. What is not dense, or has rows
            that its memory holds in several places, is copied.
        n (int): Number of rows: 1, or ``x.shape[0]``.

    Returns:
        Tuple[Tensor, Tensor]: ``x`` or its contiguous copy; a view of it of shape (n, x.numel() / n).
    """
    if not x.is_contiguous():
        order = sorted(range(x.dim()), key=x.stride, reverse=True)
        ordered = x.permute(order)
        if ordered.is_contiguous() and (n == 1 or order[0] == 0):
            return x, ordered.view(n, -1)
        x = x.contiguous()
    return x, x.view(n, -1)


def pieces(*tensors: Tensor) -> Iterator[Tuple[Tensor, ...]]:
    """Cut rows alike into what one operation after the other works on.

    Args:
        *tensors (Tensor): Of shape (n, k), or columns (n, 1) where n > 1.

    Returns:
        Iterator[Tuple[Tensor, ...]]: Some columns of each, or some whole rows where n > 1. What is small comes at once,
        and so does all that is not on a CPU, since a GPU has more use for few large kernels.
    """
    n, k = tensors[0].shape
    if n * k <= PIECE or tensors[0].device.type != 'cpu':
        return iter([tensors])
    size, axis = (PIECE, 1) if n == 1 else (max(PIECE // max(k, 1), 1), 0)
    return zip(*(tensor.split(size, axis) for tensor in tensors))


def format_of(x: Tensor) -> torch.memory_format:
    """Returns the memory format of a weight: that of images if its channels come last, else the plain one."""
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def in_layout_of(x: Tensor, other: Tensor) -> Tensor:
    """``x``, copied if its layout is not that of ``other``, which has the same shape."""
    return x if x.stride() == other.stride() else torch.empty_like(other, dtype=x.dtype).copy_(x)
