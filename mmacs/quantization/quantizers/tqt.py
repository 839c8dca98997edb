"""Trained quantization thresholds (Jain et al., MLSys 2020, arXiv 1903.08066)."""

from typing import Any

import torch
from torch import Tensor, nn

from mmacs.quantization.fake_quant import fill_zeros, lsq_quantize, trained_power_of_two
from mmacs.quantization.quantizers.base import Quantizer
from mmacs.utils.registry import QUANTIZERS


@QUANTIZERS.register_module()
class TQT(Quantizer):
    """Power-of-two steps ``s = 2^ceil(log2 t) / (q_max + 1)``, where log2 of the threshold t is trained.

    The threshold's gradient is ``ds/d(log2 t) = s ln 2`` (ceil passed straight through) times that of the step, which
    is ``round(x/s) - x/s`` inside the range, ``q_min`` below and ``q_max`` above (equations 6 and 7; here as in LSQ a
    value counts as inside by itself, not by what it is rounded to). Thresholds start at three times the root mean
    square, which for weights is the paper's 3-sigma rule and for activations our choice.

    Args:
        **kwargs: See :class:`~.base.Quantizer`.
    """

    recomputable = True
    fused = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.log2_threshold = nn.Parameter(torch.zeros(self.num_ranges))

    def statistic(self, x: Tensor) -> Tensor:
        """Root mean square per range, shape (number of channels,)."""
        return self.memory_rows_of(x).square().mean(1).sqrt()

    def set_range(self, statistic: Tensor, level: int, q_min: int, q_max: int) -> None:
        """``t`` = three times the root mean square."""
        self.at(self.log2_threshold, level).copy_((3 * fill_zeros(statistic)).log2())

    def grid_step(self, level: int, q_min: int, q_max: int) -> Tensor:
        """``2^ceil(log2 t) / (q_max + 1)``."""
        return trained_power_of_two(self.at(self.log2_threshold, level)) / (q_max + 1)

    def fake_quantize(self, x: Tensor, step: Tensor, q_min: int, q_max: int) -> Tensor:
        """LSQ's function with the step's gradient as it is."""
        return lsq_quantize(x, step, q_min, q_max, scaled=False, watch=self.watch)
