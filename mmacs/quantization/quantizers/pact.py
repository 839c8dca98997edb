"""PACT: parameterized clipping activation (Choi et al. 2018, arXiv 1805.06085)."""

from typing import Any

import torch
from torch import Tensor, nn

from mmacs.quantization.fake_quant import clip_and_round, fill_zeros, keep_positive
from mmacs.quantization.quantizers.base import Quantizer
from mmacs.utils.registry import QUANTIZERS


@QUANTIZERS.register_module()
class PACT(Quantizer):
    """Clips to [0, alpha] and rounds to ``k alpha / (2^bits - 1)``, with alpha learned.

    Alpha's gradient is that of clipping alone: 1 where ``x >= alpha``, else 0 (the paper's equation 3); values with
    both signs are clipped at ``q_min alpha / q_max`` too. Alpha starts at three times the root mean square (our
    choice for full-precision checkpoints; the paper trains from scratch). The paper's L2 penalty on alpha is weight
    decay: ``paramwise_cfg=dict(quantizer_decay_mult=1)`` of the optimizer's constructor.

    Args:
        **kwargs: See :class:`~.base.Quantizer`.
    """

    recomputable = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.clip = nn.Parameter(torch.ones(self.num_ranges))

    def statistic(self, x: Tensor) -> Tensor:
        """Root mean square per range, shape (number of channels,)."""
        return self.memory_rows_of(x).square().mean(1).sqrt()

    def set_range(self, statistic: Tensor, level: int, q_min: int, q_max: int) -> None:
        """``alpha`` = three times the root mean square."""
        self.at(self.clip, level).copy_(3 * fill_zeros(statistic))

    def grid_step(self, level: int, q_min: int, q_max: int) -> Tensor:
        """``alpha / q_max``."""
        return keep_positive(self.at(self.clip, level)) / q_max

    def fake_quantize(self, x: Tensor, step: Tensor, q_min: int, q_max: int) -> Tensor:
        """Clip, then round with a straight-through gradient."""
        return clip_and_round(x, step, q_min, q_max)
