"""Learned step size quantization (Esser et al., ICLR 2020, arXiv 1902.08153)."""

from torch import Tensor

from mmacs.quantization.fake_quant import lsq_initial_step, lsq_quantize
from mmacs.quantization.quantizers.base import Quantizer
from mmacs.registry import QUANTIZERS


@QUANTIZERS.register_module()
class LSQ(Quantizer):
    """Uniform levels ``s * k`` with a step size learned by gradient; see :func:`~..fake_quant.lsq_quantize`."""

    def statistic(self, x: Tensor) -> Tensor:
        """Mean absolute value per step, shape (number of channels,)."""
        num_channels = self.step.numel() if self.num_levels == 1 else 1
        return x.abs().reshape(num_channels, -1).mean(1)

    def initial_step(self, statistic: Tensor, q_min: int, q_max: int) -> Tensor:
        """``2 E|x| / sqrt(q_max)``, equation in section 2.1 of the paper."""
        return lsq_initial_step(statistic, q_max)

    def fake_quantize(self, x: Tensor, step: Tensor, q_min: int, q_max: int) -> Tensor:
        """``s * round(clip(x / s, q_min, q_max))`` with the paper's gradients."""
        return lsq_quantize(x, step, q_min, q_max)
