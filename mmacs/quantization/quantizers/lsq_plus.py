"""LSQ+: a learned step size and a learned offset (Bhalgat et al., CVPR-W 2020, arXiv 2004.09576)."""

from typing import Any, Optional

import torch
from torch import Tensor, nn

from mmacs.quantization.quantizers.lsq import LSQ
from mmacs.utils.errors import MmacsError
from mmacs.utils.registry import QUANTIZERS


@QUANTIZERS.register_module()
class LSQPlus(LSQ):
    """Levels ``s * k + offset``, k in [0, 2^bits - 1], both learned: for values that are not centred on zero.

    The offset's gradient is 1 outside the range and 0 inside (the paper's equation 7), scaled like the step's. Both
    start from the smallest and largest value seen, so that the range covers them. All ranges are asymmetric, whatever
    the signs.

    Args:
        **kwargs: See :class:`~.base.Quantizer`.

    Raises:
        MmacsError: If ``init`` of :class:`LSQ` is given.
    """

    def __init__(self, **kwargs: Any) -> None:
        if 'init' in kwargs:
            raise MmacsError('LSQPlus starts from the smallest and largest value and takes no init: leave it out')
        super().__init__(**kwargs)
        self.init = 'range'
        self.offset = nn.Parameter(torch.zeros(self.num_ranges))

    def statistic(self, x: Tensor) -> Tensor:
        """Returns the smallest and largest value, shape (2, number of channels)."""
        return torch.stack(torch.aminmax(self.memory_rows_of(x), dim=1))

    def combine(self, statistics: Tensor) -> Tensor:
        """Returns the union of ranges."""
        return torch.stack([statistics[:, 0].amin(0), statistics[:, 1].amax(0)])

    def set_range(self, statistic: Tensor, level: int, q_min: int, q_max: int) -> None:
        """``s = (max - min) / (2^bits - 1)``, ``offset = min``."""
        low, high = statistic
        span = high - low
        # a constant needs no range: a step of its magnitude (or 1) represents it and can learn
        span = torch.where(span > 0, span, torch.where(low != 0, low.abs(), torch.ones_like(low)))
        self.at(self.step, level).copy_(span / q_max)
        self.at(self.offset, level).copy_(low)

    def bounds(self, level: int = 0) -> tuple:
        """0 and 2^bits - 1, since the offset takes care of signs."""
        return 0, 2**self.bits - 1

    def grid_offset(self, level: int, step: Tensor, q_max: int) -> Optional[Tensor]:
        """Returns the learned offset."""
        return self.at(self.offset, level)
