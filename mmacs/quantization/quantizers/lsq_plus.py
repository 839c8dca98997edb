"""LSQ+: a learned step size and a learned offset (Bhalgat et al., CVPR-W 2020, arXiv 2004.09576)."""

from typing import Any, List, Optional

import torch
from torch import Tensor, nn

from mmacs.quantization.mse_clip import channel_sample
from mmacs.quantization.mse_range import SAMPLE_SIZE, offset_range
from mmacs.quantization.quantizers.lsq import LSQ
from mmacs.utils.errors import MmacsError
from mmacs.utils.registry import QUANTIZERS


@QUANTIZERS.register_module()
class LSQPlus(LSQ):
    """Levels ``s * k + offset``, k in [0, 2^bits - 1], both learned: for values that are not centred on zero.

    The offset's gradient is 1 outside the range and 0 inside (the paper's equation 7), scaled like the step's. Both
    start at the least squared error, as the paper's do, see :func:`~..mse_range.offset_range`. All ranges are
    asymmetric, whatever the signs. The offset is a real number, as in the paper; runtimes have integer zero points
    alone, for which :class:`~.lsq.LSQ` learns a step.

    Args:
        **kwargs: See :class:`~.base.Quantizer`.

    Raises:
        MmacsError: If ``init`` of :class:`LSQ` is given.
    """

    asymmetric = False  # by its offset, not by a zero point
    inits = ('mse',)

    def __init__(self, **kwargs: Any) -> None:
        if 'init' in kwargs:
            raise MmacsError('LSQPlus starts at the least squared error and takes no init: leave it out')
        super().__init__(**kwargs)
        self.offset = nn.Parameter(torch.zeros(self.num_ranges))

    def statistic(self, x: Tensor) -> Tensor:
        """Values of each range: those of a weight, a sample of activations, shape (number of channels, n)."""
        return self.memory_rows_of(x) if self.kind == 'weight' else channel_sample(x, self.range_axis)

    def combined(self, statistics: List[Tensor]) -> Tensor:
        """Values of all calibration batches, shape (number of channels, n)."""
        together = torch.cat(statistics, 1)
        return together if self.kind == 'weight' else together[:, :: max(1, together.numel() // SAMPLE_SIZE)]

    def set_range(self, statistic: Tensor, level: int, q_min: int, q_max: int) -> None:
        """Step and offset of least squared error."""
        step, offset = offset_range(statistic, self.bits)
        # a constant needs no range: a step of its magnitude (or 1) represents it and can learn
        step = torch.where(step > 0, step, torch.where(offset != 0, offset.abs(), torch.ones_like(offset)) / q_max)
        self.at(self.step, level).copy_(step)
        self.at(self.offset, level).copy_(offset)

    def loses_negative(self, level: int) -> bool:
        """Never: the offset follows them."""
        return False

    def bounds(self, level: int = 0) -> tuple:
        """0 and 2^bits - 1, since the offset takes care of signs."""
        return 0, 2**self.bits - 1

    def grid_offset(self, level: int, step: Tensor, q_max: int) -> Optional[Tensor]:
        """Returns the learned offset."""
        return self.at(self.offset, level)
