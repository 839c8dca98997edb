"""DAQ: activations standardised per channel before they are rounded (Hong et al., WACV 2022, arXiv 2012.11230)."""

from functools import lru_cache
from typing import Any, Dict, List, Optional, Tuple

import torch
from torch import Tensor

from mmacs.quantization.fake_quant import fill_zeros, round_to_levels
from mmacs.quantization.mse_clip import channel_sample
from mmacs.quantization.quantizers.base import Grid, Quantizer
from mmacs.utils.checks import require_known
from mmacs.utils.errors import MmacsError
from mmacs.utils.registry import QUANTIZERS

STATISTICS = ('image', 'calibration')


@QUANTIZERS.register_module()
class DAQ(Quantizer):
    """Activations minus the mean, over the deviation, of each channel are rounded with one step, and scaled back.

    With mean m and deviation d of a channel, and the uniform levels Q of a step s for all channels::

        y = d Q((x - m) / d) + m,   Q(z) = s (round(z / s + (2^bits - 1) / 2) - (2^bits - 1) / 2), within 2^bits levels

    *Experimental*: of the paper the abstract and the authors' code were at hand, and this is our reading of them.

    - "distribution of feature map values varies significantly per channel and per input image": m and d are those of
      each channel of each image (``statistics='image'``), over its places. Nothing else in a batch changes what an
      image gives. Rows of linear layers and of attention, and maps of one place, have one value in each channel: their
      statistics are those over the channels.
    - "feature maps have outliers that can dominate the quantization error"; "A simple function ... determines dynamic
      range": s is that of least squared error for the standard normal distribution, whatever the values are, see
      :func:`normal_step`; so outliers fall outside of the range.
    - "accurate training-free quantization": nothing is learned, and calibration finds out the signs alone. In training
      the gradient passes inside the range; none flows through m and d.
    - Activations without negative values keep m = 0, as in the authors' code, so that zeros stay zeros: the levels are
      ``s d k``, k from 0 to ``2^bits - 1``, d is the root mean square of the positive values, and s is the step for the
      positive half of the distribution.

    With ``statistics='calibration'``, which is ours, m and d are constants of a channel, from the calibration images.
    The abstract's mixed precision of channels is not here. Levels differ from channel to channel, which integer
    runtimes have not for activations: such a model is not exported.

    Args:
        statistics (str): ``'image'`` or ``'calibration'``. Defaults to ``'image'``.
        channel_axis (int): Axis of the channels: 1 for convolutions, -1 for linear layers.
        num_features (int, optional): Number of channels, which ``'calibration'`` needs to know.
        **kwargs: See :class:`~.base.Quantizer`.

    Raises:
        MmacsError: If ``statistics`` is unknown, or calibrated ones are asked for where the number of channels is not
            known; if ``power_of_two`` or ``per_channel`` is asked for.
    """

    kinds = ('activation',)
    uniform = False

    def __init__(
        self, statistics: str = 'image', channel_axis: int = 1, num_features: Optional[int] = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        require_known('statistics', statistics, STATISTICS)
        if self.power_of_two:
            raise MmacsError('DAQ multiplies its step by deviations: leave power_of_two out of its settings')
        if self.num_channels > 1:
            raise MmacsError('DAQ has a mean and a deviation for each channel: leave per_channel out of its settings')
        self.statistics = statistics
        self.channel_axis = channel_axis
        self._steps = _steps(self.bits)
        if statistics == 'calibration':
            if num_features is None:
                raise MmacsError(
                    "DAQ with statistics='calibration' is for inputs of layers, which tell their number of channels: "
                    "take statistics='image' for additions, concatenations and outputs"
                )
            self.register_buffer('mean', torch.zeros(self.num_levels, num_features))
            self.register_buffer('deviation', torch.ones(self.num_levels, num_features))

    def moments(self, x: Tensor, level: int, signed: bool) -> Tuple[Tensor, Tensor]:
        """Returns mean and deviation, float32, as they broadcast against values.

        Args:
            x (Tensor): Values, float32, (N, C, ...), or (..., C) with ``channel_axis=-1``.
            level (int): Pyramid level.
            signed (bool): Whether there are negative values.
        """
        if self.statistics == 'calibration':
            shape = [-1 if each == self.channel_axis % x.dim() else 1 for each in range(x.dim())]
            return self.mean[level].view(shape), self.deviation[level].view(shape)
        return _moments(x, self.axes_of(x), signed)

    def axes_of(self, x: Tensor) -> List[int]:
        """Returns the axes over which an image's own statistics are taken."""
        axis = self.channel_axis % x.dim()
        axes = [axis] if axis == x.dim() - 1 else [each for each in range(1, x.dim()) if each != axis]
        return [axis] if all(x.shape[each] == 1 for each in axes) else axes

    def alike(self, y: Tensor) -> Tensor:
        """Returns the values of one channel of one image, or of one row."""
        if self.statistics == 'calibration':
            return y.select(self.channel_axis, 0)
        axes = self.axes_of(y)
        return y[tuple(slice(None) if each in axes else 0 for each in range(y.dim()))]

    def statistic(self, x: Tensor) -> Tensor:
        """A sample of each channel, shape (C, n), for calibrated statistics; else nothing is needed, shape (0, 0)."""
        return channel_sample(x, self.channel_axis) if self.statistics == 'calibration' else x.new_zeros(0, 0)

    def combined(self, statistics: List[Tensor]) -> Tensor:
        """Samples of all calibration batches, shape (C, n)."""
        return torch.cat(statistics, 1)

    def set_range(self, statistic: Tensor, level: int, q_min: int, q_max: int) -> None:
        """Keep calibrated means and deviations; a channel that is constant has the deviation of the others."""
        if self.statistics == 'calibration':
            mean, deviation = _moments(statistic, [1], self.level_is_signed(level))
            deviation = fill_zeros(torch.where(deviation > 1e-6 * deviation.amax(), deviation, 0.0))
            self.mean[level], self.deviation[level] = mean[:, 0], deviation[:, 0]

    def grid(self, level: int = 0) -> Grid:
        """Refused: each channel has levels of its own."""
        raise MmacsError(f'{self.name} is a DAQ, whose levels are those of each channel')

    def fake_quantized(self, x: Tensor, level: int) -> Tensor:
        """Map values of any floating dtype to the levels of their channels."""
        signed, last = self.level_is_signed(level), 2**self.bits - 1
        lowest = -self._steps[int(signed)] * last / 2 if signed else 0.0
        with torch.no_grad():
            mean, deviation = self.moments(x.detach().float(), level, signed)

        def on_levels(x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
            step = mean.new_full((1,), self._steps[int(signed)])
            z = (x.float() - mean) / deviation - lowest
            return ((round_to_levels(z, step, 0, last) + lowest) * deviation + mean).to(x.dtype)

        operands = x, mean, deviation
        return self.remembered(on_levels, *operands)

    def stored_values(self) -> int:
        """Returns the number of means and deviations that are kept."""
        return self.mean.numel() + self.deviation.numel() if self.statistics == 'calibration' else 0

    def options(self) -> Dict[str, Any]:
        """Returns ``statistics`` where it is not the default, beside what all quantizers tell."""
        return {**super().options(), **({'statistics': self.statistics} if self.statistics != 'image' else {})}

    def change_bits(self, bits: int) -> None:
        """Go over to the step of another bit-width."""
        super().change_bits(bits)
        self._steps = _steps(bits)


@lru_cache
def normal_step(bits: int, signed: bool) -> float:
    """Step of least squared error for the standard normal distribution, or for its positive half (Max, 1960).

    Args:
        bits (int): Bit-width, 1 to 16: there are ``2^bits`` levels.
        signed (bool): Whether they lie evenly around zero; else from zero on, for the positive half.
    """
    z = torch.linspace(0, 8, 2**12, dtype=torch.float64)
    density, last = (-z.square() / 2).exp(), 2**bits - 1
    lowest = last / 2 if signed else 0.0

    def error(step: float) -> float:
        level = (z / step + lowest).round().clamp(0, last) - lowest
        return ((level * step - z).square() * density).sum().item()

    range_ = torch.linspace(0.5, 8, 751, dtype=torch.float64) * (2 if signed else 1)
    return min((range_ / 2**bits).tolist(), key=error)


def _steps(bits: int) -> Tuple[float, float]:
    """Returns the steps without and with sign: before a forward is compiled, which can't search for them."""
    return normal_step(bits, False), normal_step(bits, True)


def _moments(x: Tensor, axes: List[int], signed: bool) -> Tuple[Tensor, Tensor]:
    """Returns mean and standard deviation, or 0 and the root mean square of the positive values; axes are kept."""
    if signed:
        deviation, mean = torch.std_mean(x, axes, correction=0, keepdim=True)
    else:
        positive = x.relu()
        deviation = (positive.square().sum(axes, True) / (positive > 0).sum(axes, True).clamp_min(1)).sqrt()
        mean = torch.zeros_like(deviation)
    return mean, deviation.clamp_min(torch.finfo(torch.float32).tiny * 1e8)
