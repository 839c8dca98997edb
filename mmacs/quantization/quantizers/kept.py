"""Quantized values that several read, kept within one forward. Imports torch alone."""

from typing import Optional

import torch
from torch import Tensor


class Kept:
    """What a tensor was quantized to, until all have read it.

    Args:
        x (Tensor): The tensor.
        y (Tensor, optional): Its quantized values, once they are computed.
        left (int): How many are going to read it.
    """

    def __init__(self, x: Tensor, y: Optional[Tensor], left: int) -> None:
        self.x, self.y, self.left = x, y, left
        self.versions = _version(x), _version(y)

    def is_of(self, x: Tensor) -> bool:
        """Returns whether ``x`` is the tensor, or the quantized one, and was not written to since."""
        return (x is self.x or x is self.y) and self.versions == (_version(self.x), _version(self.y))


def _version(x: Optional[Tensor]) -> int:
    """Returns torch's count of writes to a tensor, where there is one."""
    return 0 if x is None or torch.compiler.is_compiling() or x.is_inference() else x._version
