"""Learned step size quantization (Esser et al., ICLR 2020, arXiv 1902.08153)."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from mmacs.quantization.fake_quant import (
    fill_zeros,
    keep_positive,
    lsq_initial_step,
    lsq_quantize,
    scale_gradient,
)
from mmacs.quantization.mse_clip import channel_sample, mse_clip_of_bits
from mmacs.quantization.quantizers.base import Grid, Quantizer
from mmacs.utils.errors import unknown_name
from mmacs.utils.registry import QUANTIZERS

INITS = ('mean', 'mse')


@QUANTIZERS.register_module()
class LSQ(Quantizer):
    """Uniform levels ``s * k`` with a step size learned by gradient; see :func:`~..fake_quant.lsq_quantize`.

    Args:
        init (str): Where the step starts: ``'mean'``, the paper's ``2 E|x| / sqrt(q_max)``; or ``'mse'``, the step of
            least squared error, see :func:`~..mse_clip.mse_clip`, which is much nearer to the full-precision model.
        **kwargs: See :class:`~.base.Quantizer`.

    Raises:
        MmacsError: If ``init`` is unknown.
    """

    recomputable = True
    fused = True

    def __init__(self, init: str = 'mean', **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if init not in INITS:
            raise unknown_name('init', init, INITS)
        self.init = init
        self.step = nn.Parameter(torch.ones(self.num_ranges))

    def statistic(self, x: Tensor) -> Tensor:
        """Mean absolute value per range, or best clips without and with sign, shape ([2,] number of channels)."""
        if self.init == 'mean':
            return self.memory_rows_of(x).abs().mean(1)
        rows = self.memory_rows_of(x) if self.kind == 'weight' else channel_sample(x)
        return torch.stack([mse_clip_of_bits(rows, self.bits, signed) for signed in (False, True)])

    def set_range(self, statistic: Tensor, level: int, q_min: int, q_max: int) -> None:
        """``2 E|x| / sqrt(q_max)``, section 2.1 of the paper, or the step of least squared error."""
        if self.init == 'mean':
            step = lsq_initial_step(statistic, q_max)
        else:
            signed = self.level_is_signed(level)
            step = fill_zeros(statistic[int(signed)]) / 2 ** (self.bits - signed)
        self.at(self.step, level).copy_(step)

    def grid_step(self, level: int, q_min: int, q_max: int) -> Tensor:
        """Returns the learned step, kept positive."""
        return keep_positive(self.at(self.step, level))

    def quantize(self, x: Tensor, grid: Grid) -> Tensor:
        """Map float32 values to a grid; gradients of an offset are scaled as the step's, by ``1 / sqrt(n q_max)``."""
        if grid.offset is not None:
            scale = 1 / math.sqrt(x.numel() / grid.offset.numel() * grid.q_max)
            grid = grid._replace(offset=scale_gradient(grid.offset, scale))
        return super().quantize(x, grid)

    def fake_quantize(self, x: Tensor, step: Tensor, q_min: int, q_max: int) -> Tensor:
        """``s * round(clip(x / s, q_min, q_max))`` with the paper's gradients."""
        return lsq_quantize(x, step, q_min, q_max, watch=self.watch)

    @torch.no_grad()
    def change_bits(self, bits: int) -> None:
        """Go over to another bit-width: the step changes as its start does."""
        ratio = (2**self.bits - 1) / (2**bits - 1)
        super().change_bits(bits)
        self.step.mul_(math.sqrt(ratio) if self.init == 'mean' else ratio)
