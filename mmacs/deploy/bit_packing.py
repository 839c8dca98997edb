"""Whole numbers of a few bits each, written one after the other. Pure maths."""

import numpy as np
import torch
from torch import Tensor


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Write whole numbers one after the other, the lowest bit of each first.

    Args:
        codes (Tensor): Whole numbers in [0, 2^bits - 1], any shape and integer dtype.
        bits (int): Bits of each, 1 to 16.

    Returns:
        Tensor: Bytes, uint8, shape (ceil(n * bits / 8),); what is over in the last one is 0.
    """
    values = codes.reshape(-1, 1).to(torch.int32).numpy()
    return torch.from_numpy(np.packbits((values >> np.arange(bits)) & 1, bitorder='little'))


def unpack_bits(packed: Tensor, bits: int, count: int) -> Tensor:
    """Read what :func:`pack_bits` wrote.

    Args:
        packed (Tensor): Bytes, uint8, shape (ceil(count * bits / 8),).
        bits (int): Bits of each number, 1 to 16.
        count (int): How many numbers there are.

    Returns:
        Tensor: The numbers, int32, shape (count,).
    """
    digits = np.unpackbits(packed.numpy(), count=count * bits, bitorder='little').reshape(count, bits)
    return torch.from_numpy(digits.astype(np.int32) @ (1 << np.arange(bits, dtype=np.int32)))
