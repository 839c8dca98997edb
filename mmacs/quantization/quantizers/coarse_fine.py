"""CFWS: weights as the sum of a coarse and a fine part (Shi et al. 2023, arXiv 2312.10588)."""

import math
from typing import Any, Sequence, Tuple

import torch
from torch import Tensor

from mmacs.quantization.fake_quant import keep_positive, per_element, power_of_two_step, round_to_levels
from mmacs.quantization.quantizers.base import Quantizer
from mmacs.utils.registry import QUANTIZERS


@QUANTIZERS.register_module()
class CoarseFine(Quantizer):
    """A weight is the sum of a coarse part, for the few large values, and a fine one, each with its own step.

    Networks whose branches were folded into one convolution, as RepVGG's, have at the centres of their kernels what
    the 1x1 and identity branches brought. A BatchNorm of small variance makes that many times as large as the rest, and
    with one step that covers it the rest is rounded to zero. With c the centre of a kernel W::

        coarse = Q_C(c) at the centre, 0 elsewhere        W_hat = coarse + Q_F(W - coarse)

    Q_C covers the centres, and Q_F the other weights and what rounding leaves of the centres; both are symmetric, have
    ``2^(bits-1) - 1`` levels on each side, and a step per channel or per tensor. A convolution with W_hat is the sum of
    two with integer weights, of which the coarse one is 1x1. Weights without a centre (of linear layers, 1x1, even
    sides) are coarse as a whole, and the fine part is what is left.

    *Experimental*: of the paper the abstract and the authors' code were at hand, and this is our reading of them.

    - "large variation in weight distribution across the original branches": what is split off is where these meet,
      the centre, as in the code.
    - "coarse & fine weight splitting (CFWS) method to reduce quantization error of weight": the equations, as in the
      code. The range of Q_F is what can be left, half a coarse step, rather than what is: it depends on magnitudes
      alone then, and follows a change of bits.
    - "enables post-training quantization": nothing is learned. In training ranges follow the weight, and the gradient
      passes straight through.

    With 1 bit each part is ``-s/2`` or ``+s/2``.

    Args:
        shape (Sequence[int]): Shape of the weight, output channels first.
        **kwargs: See :class:`~.base.Quantizer`.
    """

    kinds = ('weight',)
    uniform = False

    def __init__(self, shape: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        kernel = tuple(shape[2:])
        has_centre = math.prod(kernel) > 1 and all(side % 2 for side in kernel)
        self.place = (..., *(side // 2 for side in kernel)) if has_centre else (...,)
        self.num_coarse = math.prod(shape) // (math.prod(kernel) if has_centre else 1)
        self.register_buffer('coarse_range', torch.ones(self.num_ranges))
        self.register_buffer('rest_range', torch.ones(self.num_ranges))

    def statistic(self, x: Tensor) -> Tensor:
        """Returns the largest magnitude among the coarse weights and among the others, shape (2, channels)."""
        rest = x.abs()
        coarse = self.by_channel(rest[self.place]).amax(1)
        rest[self.place] = 0
        return torch.stack([coarse, self.by_channel(rest).amax(1)])

    def combine(self, statistics: Tensor) -> Tensor:
        """The weight is the same in every batch."""
        return statistics[0]

    def set_range(self, statistic: Tensor, level: int, q_min: int, q_max: int) -> None:
        """Take the largest magnitudes."""
        self.coarse_range.copy_(statistic[0])
        self.rest_range.copy_(statistic[1])

    def refresh(self, x: Tensor, level: int) -> None:
        """Take the weight's range."""
        self.set_range(self.statistic(x), level, 0, 0)

    def steps(self) -> Tuple[Tensor, Tensor]:
        """Returns the steps of the coarse and of the fine part, shape (1,) or (number of channels,)."""
        levels = 2 ** (self.bits - 1) - 1 if self.bits > 1 else 0.5
        coarse = self._step(self.coarse_range / levels)
        left = (self.coarse_range - levels * coarse).maximum(coarse / 2)
        return coarse, self._step(self.rest_range.maximum(left) / levels)

    def _step(self, step: Tensor) -> Tensor:
        step = keep_positive(step)
        return power_of_two_step(step) if self.power_of_two else step

    def fake_quantized(self, x: Tensor, level: int) -> Tensor:
        """Map values of any floating dtype to sums of two levels."""

        def on_levels(x: Tensor, coarse_step: Tensor, fine_step: Tensor) -> Tensor:
            values = x.float()
            with torch.no_grad():
                coarse = torch.zeros_like(values)
                coarse[self.place] = _rounded(values[self.place].contiguous(), coarse_step, self.bits)
            return (_rounded(values - coarse, fine_step, self.bits) + coarse).to(x.dtype)

        operands = x, *self.steps()
        return self.remembered(on_levels, *operands)

    def stored_values(self) -> float:
        """Returns the number of steps, and of float32 values that are as large as the coarse part."""
        return 2 * self.num_ranges + self.num_coarse * self.bits / 32


def _rounded(x: Tensor, step: Tensor, bits: int) -> Tensor:
    """Returns the nearest levels of a symmetric grid, or of two levels; the gradient passes inside the range."""
    if bits == 1:
        half = per_element(step, x) / 2
        return round_to_levels(x + half, step, 0, 1) - half
    most = 2 ** (bits - 1) - 1
    return round_to_levels(x, step, -most, most)
