"""The integers behind a quantized model: levels of weights, grids of activations, BatchNorm and biases. Pure maths."""

from typing import List, NamedTuple, Optional, Tuple, Union

import torch
from torch import Tensor

from mmacs.quantization.fake_quant import per_element
from mmacs.quantization.quantizers import Grid
from mmacs.utils.errors import MmacsError

MAX_BITS = 8
LARGEST_BIAS = 2**30  # in units of step * scale: with a sum of products it stays within 32 bits
NARROW_BITS = 4  # at most, of weights that are stored as such and widened when a runtime loads them
# Two products of 8-bit activations with integers of this magnitude fit into 16 bits, where older processors add them
LARGEST_CODE = 64
_WHOLE = 1e-3  # steps by which an offset may miss a whole number of them, by rounding of float32


class ActivationGrid(NamedTuple):
    """Values ``step * k`` of an activation for integers k in [low, high]; zero is k = 0."""

    step: Tensor  # float32, shape (1,) or (number of channels,)
    low: int
    high: int


class IntegerWeight(NamedTuple):
    """A weight of C output channels, ``scale * (multiplier * levels + shift)``; what is in brackets fits int8.

    ``levels`` are stored. The two integers, which runtimes apply once, when they load a file, make of them what
    BatchNorm with a negative scale, one bit, or a grid that has no zero asks for.
    """

    levels: Tensor  # int8, or uint8 where there are no negative ones, shape (C, ...)
    bits: int  # that a level needs, at most 8
    multiplier: Tensor  # int32, shape (C,)
    shift: Tensor  # int32, shape (C,)
    scale: Tensor  # float32, shape (C,)


class Codebook(NamedTuple):
    """A weight of C output channels whose levels are not evenly spaced, ``table[channel, level]``."""

    levels: Tensor  # uint8, shape (C, ...)
    bits: int  # that a level needs, at most 8
    table: Tensor  # float32, shape (C, 2^bits)


def activation_grid(grid: Grid, name: str, round_offsets: bool = False) -> ActivationGrid:
    """Returns an activation's grid with integers that count from zero.

    Args:
        grid (Grid): What the quantizer maps to.
        name (str): Name of the quantizer.
        round_offsets (bool): Whether an offset that is no multiple of the step becomes the nearest one.

    Raises:
        MmacsError: If runtimes, which have integer zero points, can't represent it.
    """
    step, offset, low, high = grid
    step = step.detach()
    if offset is None:
        return ActivationGrid(step, low, high)
    shift = offset.detach() / step
    if high - low == 1 and bool(((shift - 0.5).abs() % 1 < _WHOLE).all()):
        raise MmacsError(
            f'{name} has the two levels -step/2 and step/2, and runtimes have no activations without a zero: use 2 bits'
        )
    whole = shift.round()
    if not round_offsets and bool(((shift - whole).abs() > _WHOLE).any()):
        raise MmacsError(
            f'{name} has an offset of {shift.flatten()[0].item():.3f} steps, and runtimes have whole numbers of them: '
            f'give round_offsets, which changes the model and has it verified again, or train with LSQ'
        )
    if bool((whole != whole.flatten()[0]).any()):
        raise MmacsError(f'{name} has offsets that differ between channels, which runtimes have not: use one range')
    move = int(whole.flatten()[0])
    if not -255 <= low + move <= high + move <= 255:
        raise MmacsError(f'{name} has levels {low + move} to {high + move}, which 8 bits with a zero do not hold')
    return ActivationGrid(step, low + move, high + move)


def integer_weight(values: Tensor, grid: Grid, name: str) -> IntegerWeight:
    """Returns a fake-quantized weight as integers.

    Args:
        values (Tensor): What the quantizer makes of the weight, float32, shape (C, ...).
        grid (Grid): What it maps to, with one range, or one per channel.
        name (str): Name of the quantizer.

    Raises:
        MmacsError: If the levels don't fit 8-bit integers.
    """
    step, offset, low, high = grid
    channels = len(values)
    step = step.detach().expand(channels) if step.numel() == 1 else step.detach()
    shift = torch.zeros(channels, device=values.device)
    halves = False
    if offset is not None:
        shift = (offset.detach() / step).expand(channels)
        halves = bool(((shift * 2).round() % 2 != 0).any())
    factor = 2 if halves else 1
    whole = (shift * factor).round()
    if bool(((shift * factor - whole).abs() > _WHOLE).any()):
        raise MmacsError(f'{name} has offsets that are no multiples of its steps, which integer weights have not')
    levels = ((values - per_element(shift * step, values)) / per_element(step, values)).round().clamp(low, high)
    weight = IntegerWeight(
        levels=levels.to(torch.int8 if low < 0 else torch.uint8),
        bits=(high - low).bit_length(),
        multiplier=torch.full_like(shift, factor, dtype=torch.int32),
        shift=whole.to(torch.int32),
        scale=step / factor,
    )
    lowest, highest = (int(end) for end in codes(weight).aminmax())
    if lowest < -128 or highest > 127:
        raise MmacsError(
            f'{name} has levels {lowest} to {highest}, which 8-bit integers do not hold: give its layer 7 bits in the '
            f'recipe'
        )
    return weight


def with_finer_scale(weight: IntegerWeight) -> IntegerWeight:
    """Returns the same weight of few bits as larger integers with a smaller scale, so that biases are rounded less.

    Runtimes round a bias to multiples of step times scale, which are coarse where both have few bits. The integers grow
    by a power of two, so that products stay exact.

    Args:
        weight (IntegerWeight): The weight; one of more than 4 bits stays as it is.
    """
    largest = int(codes(weight).abs().max()) if weight.levels.numel() else 0
    if weight.bits > NARROW_BITS or not largest:
        return weight
    factor = 1 << max(0, (LARGEST_CODE // largest).bit_length() - 1)
    multiplier, shift = weight.multiplier * factor, weight.shift * factor
    return weight._replace(multiplier=multiplier, shift=shift, scale=weight.scale / factor)


def codebook(values: Tensor, bits: int) -> Codebook:
    """Returns a weight of at most ``2^bits`` values per output channel, float32, shape (C, ...), with them numbered."""
    rows = values.flatten(1)
    levels, table = torch.empty_like(rows, dtype=torch.uint8), rows.new_zeros(len(rows), 2**bits)
    for number, row in enumerate(rows):
        known, places = row.unique(return_inverse=True)
        table[number, : len(known)] = known
        levels[number] = places.to(torch.uint8)
    return Codebook(levels.view(values.shape), bits, table)


def codes(weight: IntegerWeight) -> Tensor:
    """Returns the integers that a runtime multiplies with, int32, in the shape of the levels."""
    levels = weight.levels.to(torch.int32)
    return levels * per_element(weight.multiplier, levels) + per_element(weight.shift, levels)


def scaled_by_channel(
    weight: Union[IntegerWeight, Codebook], factor: Tensor, positive: bool = False
) -> Optional[Union[IntegerWeight, Codebook]]:
    """Returns the weight times a number per output channel, exactly.

    A negative number turns the signs of the integers. Where that leaves no room in 8 bits, as -128 has no opposite,
    the scale of the channel takes the sign.

    Args:
        weight (IntegerWeight or Codebook): The weight.
        factor (Tensor): float32, shape (C,).
        positive (bool): Whether all scales have to be positive.

    Returns:
        IntegerWeight, Codebook or None: The product; None if it can't be had with positive scales.
    """
    if isinstance(weight, Codebook):
        return weight._replace(table=weight.table * factor[:, None])
    lowest = codes(weight).flatten(1).amin(1)
    turned = (factor < 0) & (lowest > -128)
    sign = 1 - 2 * turned.to(torch.int32)
    scale = weight.scale * factor * sign
    if positive and bool((scale < 0).any()):
        return None
    return weight._replace(multiplier=weight.multiplier * sign, shift=weight.shift * sign, scale=scale)


def thirds(weight: Union[IntegerWeight, Codebook]) -> List[Union[IntegerWeight, Codebook]]:
    """Returns the three weights that one holds one after the other, as that of attention does."""
    parts = (value.chunk(3) if isinstance(value, Tensor) else [value] * 3 for value in weight)
    return [type(weight)(*values) for values in zip(*parts)]


def batch_norm_factor(
    mean: Tensor, variance: Tensor, eps: float, weight: Optional[Tensor], bias: Optional[Tensor]
) -> Tuple[Tensor, Tensor]:
    """Returns BatchNorm in eval mode as ``factor * x + constant``, both of shape (C,)."""
    factor = (variance + eps).rsqrt()
    factor = factor if weight is None else factor * weight
    constant = -mean * factor
    return factor, constant if bias is None else constant + bias


def without_silent_channels(weight: IntegerWeight, bias: Tensor, steps: Tensor) -> IntegerWeight:
    """Returns the weight, in which channels that are nothing beside their biases are zero.

    A BatchNorm whose scale training has taken to zero leaves a bias alone. In units of ``step * scale`` it would have
    no 32-bit integer, so that the scale is chosen for it.

    Args:
        weight (IntegerWeight): The weight.
        bias (Tensor): float32, shape (C,), or (L, C) for several levels.
        steps (Tensor): Steps of the input, one or one per level.
    """
    largest = bias.abs().reshape(-1, bias.shape[-1]).amax(0)
    needed = largest / (steps.min() * LARGEST_BIAS)
    silent = needed >= weight.scale.abs()
    audible = (~silent).to(torch.int32)
    scale = torch.where(silent, torch.where(needed > 0, needed, torch.ones_like(needed)), weight.scale)
    return weight._replace(multiplier=weight.multiplier * audible, shift=weight.shift * audible, scale=scale)


def rounded_bias(bias: Tensor, scale: Tensor, step: Tensor) -> Tensor:
    """Returns a bias on the grid of the products that it is added to, ``step * scale``, where runtimes have it.

    Args:
        bias (Tensor): float32, shape (C,).
        scale (Tensor): Scales of the weight, shape (C,).
        step (Tensor): Step of the input, one number.
    """
    unit = (step * scale).abs()
    return (bias / unit).round() * unit
