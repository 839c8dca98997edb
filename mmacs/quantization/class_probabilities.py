"""Grid points as classes, with the probabilities that a logistic distribution around a value gives them.

Imports torch alone.
"""

import math
from typing import Union

import torch
from torch import Tensor

from mmacs.quantization.fake_quant import per_element, scale_gradient

_NEGLIGIBLE = 12  # scales from a border, where the logistic density is below 1e-5 of its peak

Level = Union[int, Tensor]  # a number, or one in a tensor of no axes


def expected_slope(v: Tensor, q_min: Level, q_max: Level, temperature: float) -> Tensor:
    """Derivative of the expected class ``sum_k k P(k)`` with respect to a value, both in steps.

    Class k has the mass of the logistic distribution of mean v and scale T = ``temperature`` between ``k - 1/2`` and
    ``k + 1/2``, the outermost ones also the tails. The expectation is then a sum over the borders b between classes,
    ``q_min + sum_b sigmoid((v - b) / T)``, and its slope that of the density at the borders, the nearest of which
    count: it is least at the grid points and largest between them, and fades beyond the outermost ones.

    Args:
        v (Tensor): Values in steps, float32.
        q_min (int or Tensor): Lowest class.
        q_max (int or Tensor): Highest class.
        temperature (float): Scale of the distribution in steps, above 0 and at most 1/4, from which on the
            slope is nearly the same everywhere.

    Returns:
        Tensor: Not negative, in the shape of ``v``.
    """
    nearest, total = v.floor() + 0.5, torch.zeros_like(v)
    reach = math.ceil(_NEGLIGIBLE * temperature)
    for way in range(-reach, reach + 1):
        border = nearest + way
        below = torch.sigmoid((v - border) / temperature)
        total += torch.where((border > q_min) & (border < q_max), below * (1 - below), 0.0)
    return total / temperature


def quantize_to_mode(x: Tensor, step: Tensor, q_min: Level, q_max: Level, temperature: float) -> Tensor:
    """Map values to the likeliest grid point, with the gradient of its one-hot code passed to the probabilities.

    The likeliest is the nearest, but for values within 0.01 steps of the outermost borders, since the outermost classes
    have tails: these go to the nearest too. With g_k = s k the grid points and k* the likeliest, the multi-class
    straight-through gradients are

    ``dy/dx = sum_k g_k dP(k)/dx`` and ``dy/ds = k* + sum_k g_k dP(k)/ds``,

    the latter times LSQ's ``1 / sqrt(n q_max)``. P depends on ``v = x / s`` alone: with the slope e of
    :func:`expected_slope` at v they are ``e`` and ``k* - e v``.

    Args:
        x (Tensor): Values, float32; the first axis is the channel axis if ``step`` has several entries.
        step (Tensor): Positive steps s, float32, shape (1,) or (x.shape[0],).
        q_min (int or Tensor): Lowest integer level.
        q_max (int or Tensor): Highest integer level.
        temperature (float): See :func:`expected_slope`.

    Returns:
        Tensor: Quantized values, in the shape of ``x``.
    """
    scale = per_element(step.detach(), x)
    v = x.detach() * scale.reciprocal()
    level = v.round().clamp(q_min, q_max)
    y = level * scale
    if not torch.is_grad_enabled():
        return y
    slope = expected_slope(v, q_min, q_max, temperature)
    highest = torch.maximum(torch.as_tensor(q_max), torch.as_tensor(-1 - q_min)).clamp_min(1)
    learned = per_element(scale_gradient(step, (x.numel() / step.numel() * highest) ** -0.5), x)
    return y + slope * (x - x.detach()) + (level - slope * v) * (learned - learned.detach())
