"""Learned step size quantization (Esser et al., ICLR 2020, arXiv 1902.08153)."""

from typing import Any

import torch
from torch import Tensor, nn

from mmacs.quantization.fake_quant import keep_positive, lsq_initial_step, lsq_quantize
from mmacs.quantization.quantizers.base import Quantizer
from mmacs.registry import QUANTIZERS


@QUANTIZERS.register_module()
class LSQ(Quantizer):
    """Uniform levels ``s * k`` with a step size learned by gradient; see :func:`~..fake_quant.lsq_quantize`.

    Args:
        **kwargs: See :class:`~.base.Quantizer`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.step = nn.Parameter(torch.ones(self.num_ranges))

    def statistic(self, x: Tensor) -> Tensor:
        """Mean absolute value per range, shape (number of channels,)."""
        return self.by_channel(x).abs().mean(1)

    def set_range(self, statistic: Tensor, level: int, q_min: int, q_max: int) -> None:
        """``2 E|x| / sqrt(q_max)``, section 2.1 of the paper."""
        self.at(self.step, level).copy_(lsq_initial_step(statistic, q_max))

    def grid_step(self, level: int, q_min: int, q_max: int) -> Tensor:
        """The learned step, kept positive."""
        return keep_positive(self.at(self.step, level))

    def fake_quantize(self, x: Tensor, step: Tensor, q_min: int, q_max: int) -> Tensor:
        """``s * round(clip(x / s, q_min, q_max))`` with the paper's gradients."""
        return lsq_quantize(x, step, q_min, q_max)

    @torch.no_grad()
    def change_bits(self, bits: int) -> None:
        """Go over to another bit-width: the step is for the same range of values."""
        before = self.bits
        super().change_bits(bits)
        self.step.mul_((2**before - 1) / (2**bits - 1))
