"""Activation ranges by relative entropy, as of CFWS (Shi et al. 2023, arXiv 2312.10588)."""

from typing import Any, Tuple

from torch import Tensor

from mmacs.quantization.kl_range import kl_range
from mmacs.quantization.quantizers.lsq import LSQ
from mmacs.utils.errors import MmacsError
from mmacs.utils.registry import QUANTIZERS


@QUANTIZERS.register_module()
class KL(LSQ):
    """:class:`~.lsq.LSQ` of activations whose step starts where the distribution of values is kept best.

    Calibration chooses the range of least Kullback-Leibler divergence of the values from what their levels tell of
    them, see :func:`~..kl_range.kl_range`: a few outliers move it less than the least squared error. Without training
    it stays; in training the step is learned from there.

    *Experimental*: of the paper the abstract and a part of the authors' code were at hand, and this is our reading.
    "Improved KL metric to determine optimal quantization scales for activation": the metric is that of entropy
    calibration, and our improvement leaves zeros out of the histogram. What the authors' is, neither says.

    Args:
        **kwargs: See :class:`~.lsq.LSQ`, but for ``init``.

    Raises:
        MmacsError: If a range per channel is asked for.
    """

    kinds = ('activation',)
    inits = ('kl',)

    def __init__(self, init: str = 'kl', **kwargs: Any) -> None:
        super().__init__(init=init, **kwargs)
        if self.num_channels > 1:
            raise MmacsError('KL has one range for all channels: leave per_channel out of its settings')

    def best_range(self, samples: Tensor, symmetric: bool) -> Tuple[Tensor, int]:
        """Returns step and zero point of least divergence."""
        return kl_range(samples, self.bits, symmetric)
