"""SLB: weights as probability distributions over their levels (Yang et al., NeurIPS 2020, arXiv 2009.08695)."""

import math
from typing import Any, Sequence

import torch
from torch import Tensor, nn

from mmacs.quantization.fake_quant import fill_zeros
from mmacs.quantization.memory_order import format_of
from mmacs.quantization.mse_clip import mse_clip_of_bits
from mmacs.quantization.quantizers.base import Quantizer
from mmacs.quantization.recompute import keeping_inputs, remember
from mmacs.utils.checks import is_number
from mmacs.utils.errors import MmacsError
from mmacs.utils.registry import QUANTIZERS

SHARPNESS = 2.0  # a distribution starts as a normal one of variance 1 / (2 SHARPNESS) steps^2 around its weight
# Logits are kept in units of steps: of this many, a step of SGD moves a weight at the start as far as an ordinary one
UNIT = (4 * math.sqrt(math.pi * 2 * SHARPNESS)) ** -0.5
MOST_NUMBERS = 2**28  # of one layer: 1 GiB in float32


@QUANTIZERS.register_module()
class SLB(Quantizer):
    """Each weight is a softmax over its ``2^bits`` levels, sharpened in the course of the run; then the likeliest one.

    *Experimental*: of the paper only the abstract was at hand, and this is our reading of it, with what its authors'
    company published of an implementation (MindSpore Golden Stick: a temperature that changes exponentially during a
    part of the run).

    - "regard the discrete weights ... as searchable variables"; "each weight is represented as a probability
      distribution over the discrete value set": with logits A of shape (2^bits, *weight.shape), which are what is
      trained, and the levels ``v_k`` of a uniform grid, whose step calibration sets,

      ``w = sum_k v_k P_k`` with ``P_k = exp(A_k / T) / sum_j exp(A_j / T)`` and so ``dw/dA_k = P_k (v_k - w) / T``.
    - "The probabilities are optimized during training": the temperature T falls from 1 to ``temperature`` over the
      share ``annealed`` of the run, exponentially: ``T = temperature^min(progress / annealed, 1)``. How far the run is
      says ``mmacs.QuantizationHook``, or :func:`~..progress.set_progress` where there is none.
    - "the values with the highest probability are selected to establish the desired quantized network": in eval mode
      each weight is its likeliest level. What is evaluated, scored, frozen and exported is this one. As T falls the two
      become the same. ``mmacs.BatchNormReestimationHook`` takes BatchNorm's statistics of these weights at the end of
      the run, since it runs the rest of the model in eval mode.

    Calibration starts with ``A_k = -2 (w / s - k)^2``, whose mean is the layer's weight, up to what lies at the ends of
    the range, and whose likeliest level is the nearest. After that the layer's weight plays no part, and serves only
    the model in full precision. Logits are stored times ``UNIT s``, so that the learning rate of ordinary weights
    serves: at the start, a step of SGD moves w as far. They take ``2^bits`` times the memory of a weight.

    Args:
        shape (Sequence[int]): Shape of the weight, output channels first.
        temperature (float): Temperature at the end, above 0 and below 1. Defaults to 0.01.
        annealed (float): Share of the run over which the temperature falls, above 0 and at most 1. Defaults to 0.8.
        **kwargs: See :class:`~.base.Quantizer`.

    Raises:
        MmacsError: If a setting is out of range, the logits of the layer would take more than 1 GiB, or another
            bit-width is asked for later.
    """

    kinds = ('weight',)
    replaces_weight = True
    follows_run = True

    def __init__(self, shape: Sequence[int], temperature: float = 0.01, annealed: float = 0.8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not is_number(temperature) or not 0 < temperature < 1:
            raise MmacsError(f'temperature, that at the end, must be above 0 and below 1, got {temperature!r}')
        if not is_number(annealed) or not 0 < annealed <= 1:
            raise MmacsError(f'annealed, a share of the run, must be above 0 and at most 1, got {annealed!r}')
        size = 2**self.bits * math.prod(shape)
        if size > MOST_NUMBERS:
            raise MmacsError(
                f'SLB keeps {2**self.bits} numbers for each weight, {size / 2**28:.1f} GiB for one of shape '
                f'{tuple(shape)}: give its layer fewer bits or another type by a rule of the recipe'
            )
        self.temperature = temperature
        self.annealed = annealed
        self.logits = nn.Parameter(torch.zeros(2**self.bits, *shape))
        self.register_buffer('step', torch.ones(self.num_channels))
        self.register_buffer('progress', torch.zeros(1))

    def statistic(self, x: Tensor) -> Tensor:
        """The weight itself, shape (number of channels, elements of each), in the order of ``logits``."""
        return self.by_channel(x)

    def combine(self, statistics: Tensor) -> Tensor:
        """The weight is the same in every batch."""
        return statistics[0]

    def set_range(self, statistic: Tensor, level: int, q_min: int, q_max: int) -> None:
        """The step of least squared error, and distributions around the weight."""
        if self.bits == 1:
            step = 2 * statistic.abs().mean(1)
        else:
            step = mse_clip_of_bits(statistic, self.bits, signed=True) / 2 ** (self.bits - 1)
        self.step.copy_(fill_zeros(step))
        step, offset, q_min, q_max = self.grid()
        position = (statistic if offset is None else statistic - offset[:, None]) / step[:, None]
        numbers = torch.arange(q_min, q_max + 1, device=statistic.device).view(-1, 1, 1)
        logits = -SHARPNESS * (position - numbers).square() * UNIT * step[:, None]
        self.logits.copy_(logits.view_as(self.logits))

    def grid_step(self, level: int, q_min: int, q_max: int) -> Tensor:
        """Returns the steps of calibration."""
        return self.step

    def fake_quantized(self, x: Tensor, level: int) -> Tensor:
        """The weight that the logits make, in shape, dtype and layout of ``x``, whose values don't matter."""
        shape, dtype, layout, training = x.shape, x.dtype, format_of(x), self.training
        step, offset, q_min, q_max = self.grid()

        def weight(logits: Tensor, step: Tensor, temperature: Tensor) -> Tensor:
            numbers = torch.arange(q_min, q_max + 1, device=logits.device, dtype=torch.float32)
            if training:
                scaled = logits / (UNIT * step[:, None] * temperature)
                number = torch.einsum('k,kcn->cn', numbers, scaled.softmax(0))
            else:
                number = numbers[logits.argmax(0)]
            rows = number * step[:, None]
            return (rows if offset is None else rows + offset[:, None]).view(shape).to(dtype, memory_format=layout)

        temperature = self.temperature ** (self.progress / self.annealed).clamp(0, 1)
        tensors = self.logits.reshape(2**self.bits, self.num_channels, -1), step, temperature
        return remember(keeping_inputs(weight, *tensors), weight, *tensors)

    def change_bits(self, bits: int) -> None:
        """Refused: the distributions are what is trained."""
        raise MmacsError(
            f'{self.name} is a SLB of {self.bits} bits, each weight a distribution over its levels: choose its '
            f'bit-width in the recipe'
        )
