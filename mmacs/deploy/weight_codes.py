"""Quantized weights as whole numbers of a few bits, and back, bit for bit. Pure maths."""

from typing import Optional, Tuple

import torch
from torch import Tensor

from mmacs.deploy.bit_packing import pack_bits, unpack_bits
from mmacs.quantization.fake_quant import per_element
from mmacs.quantization.quantizers import Grid
from mmacs.utils.errors import MmacsError

_MAX_BITS = 16


def codes_on_grid(weight: Tensor, grid: Grid, bits: int) -> Optional[Tensor]:
    """Returns the levels of a grid that a weight lies on, counted from the lowest, see :func:`~.bit_packing.pack_bits`.

    Args:
        weight (Tensor): What a quantizer made of it, float32, output channels first.
        grid (Grid): The quantizer's.
        bits (int): The quantizer's.

    Returns:
        Tensor, optional: Bytes; None if the weight does not lie on the grid bit for bit.
    """
    step, offset, q_min, _ = grid
    shifted = weight if offset is None else weight - per_element(offset, weight)
    levels = (shifted / per_element(step, weight)).round() - q_min
    if not bool(((levels >= 0) & (levels < 2**bits)).all()):
        return None
    codes = pack_bits(levels.to(torch.int32), bits)
    return codes if torch.equal(weight_on_grid(codes, grid, bits, weight), weight) else None


def weight_on_grid(codes: Tensor, grid: Grid, bits: int, like: Tensor) -> Tensor:
    """Returns the weight behind levels of a grid.

    Args:
        codes (Tensor): As :func:`codes_on_grid` returns them.
        grid (Grid): The quantizer's.
        bits (int): The quantizer's.
        like (Tensor): A weight of the shape, output channels first.

    Raises:
        MmacsError: If there are more or fewer levels than the weight has elements.
    """
    step, offset, q_min, _ = grid
    weight = (_unpacked(codes, bits, like) + q_min).float() * per_element(step, like)
    return weight if offset is None else weight + per_element(offset, like)


def codes_by_table(weight: Tensor) -> Optional[Tuple[Tensor, Tensor]]:
    """Returns a weight by a table of its values, one for all rows or for each, whichever is smaller.

    Args:
        weight (Tensor): float32, shape (C, ...).

    Returns:
        Tuple[Tensor, Tensor], optional: Bytes, see :func:`~.bit_packing.pack_bits`, and the table, float32, shape
        (1 or C, 2^bits); None if they take as many bytes as the weight.
    """
    found = []
    for rows in (weight.reshape(1, -1), weight.flatten(1)):
        values = [row.unique() for row in rows]
        bits = max(1, (max(map(len, values)) - 1).bit_length())
        size = weight.numel() * bits / 8 + len(rows) * 2**bits * 4
        if bits <= _MAX_BITS and size < weight.numel() * 4:
            found.append((size, bits, rows, values))
    if not found:
        return None
    _, bits, rows, values = min(found, key=lambda one: one[0])
    table = torch.stack([torch.cat([one, one[-1:].expand(2**bits - len(one))]) for one in values])
    places = torch.stack([torch.searchsorted(one, row.contiguous()) for one, row in zip(values, rows)])
    return pack_bits(places, bits), table


def weight_by_table(codes: Tensor, table: Tensor, like: Tensor) -> Tensor:
    """Returns the weight that codes and a table give, see :func:`codes_by_table`.

    Args:
        codes (Tensor): The bytes.
        table (Tensor): The values.
        like (Tensor): A weight of the shape.

    Raises:
        MmacsError: If codes or table have another size than the weight asks for.
    """
    bits = (table.shape[-1] - 1).bit_length() if table.dim() == 2 else 0
    if not 1 <= bits <= _MAX_BITS or table.shape not in ((1, 2**bits), (len(like), 2**bits)):
        raise MmacsError(f'a table of shape {tuple(table.shape)} does not fit a weight of {tuple(like.shape)}')
    places = _unpacked(codes, bits, like).view(len(table), -1).long()
    return table.gather(1, places).view(like.shape)


def _unpacked(codes: Tensor, bits: int, like: Tensor) -> Tensor:
    """Returns the whole numbers in bytes, in the shape of a weight."""
    size = (like.numel() * bits + 7) // 8
    if codes.dtype != torch.uint8 or codes.shape != (size,):
        raise MmacsError(f'a weight of {tuple(like.shape)} has {size} bytes of codes, not {tuple(codes.shape)}')
    return unpack_bits(codes, bits, like.numel()).view(like.shape)
