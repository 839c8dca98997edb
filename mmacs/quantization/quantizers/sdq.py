"""SDQ: steps tied to the standard deviation (Ardakani et al. 2022, arXiv 2202.12422)."""

from typing import Any, Dict, Optional

import torch
from torch import Tensor, nn

from mmacs.quantization.fake_quant import fill_zeros, keep_positive, power_of_two_step, scale_gradient
from mmacs.quantization.log_levels import best_largest, log2_quantize, zero_bin
from mmacs.quantization.mse_clip import channel_sample
from mmacs.quantization.quantizers.base import check_momentum
from mmacs.quantization.quantizers.lsq import LSQ
from mmacs.utils.checks import is_number, require_switch
from mmacs.utils.errors import MmacsError
from mmacs.utils.registry import QUANTIZERS


def deviation_of(rows: Tensor) -> Tensor:
    """Returns standard deviations of rows (C, n), shape (C,); of a row that is constant its magnitude."""
    magnitude = rows.square().mean(1).sqrt()
    deviation = rows.std(1, correction=0)
    return torch.where(deviation > 1e-6 * magnitude, deviation, magnitude)


@QUANTIZERS.register_module()
class SDQ(LSQ):
    """Uniform levels ``s k`` with ``s = alpha std(x)``, alpha learned; weights may have logarithmic levels instead.

    *Experimental*: of the paper only the abstract was at hand, and this is our reading of it.

    - "learn the quantization intervals using the knowledge of the network's weight and activation distributions, i.e.,
      standard deviation": alpha is the parameter, and the step follows the standard deviation, so that a weight which
      grows as a whole keeps its levels. No gradient flows through the deviation. Weights' is that of the weight as it
      is, activations' follows the batches by a moving average, and processes average theirs, see
      :func:`~..synchronise.synchronise_ranges`. In eval mode both stay.
    - "base-2 logarithmic quantization ... to power-of-two discrete values" (``logarithmic=True``, weights): the levels
      are 0 and ``+-m 2^-k`` with the largest one ``m = alpha std(x)``, k from 0 to ``2^(bits-1) - 2``, see
      :func:`~..log_levels.log2_quantize`. ``power_of_two=True`` makes m one too.
    - "simultaneously prunes ... and allows us to flexibly adjust the pruning ratio" (``pruning``): the share of each
      channel's weights that become zero. It sets the width of the bin around zero in each forward, so that it is met
      whatever training does to the weights. They keep their gradient, and others take their places.

    The gradient to alpha is that of LSQ to the step, times ``1 / std(x)`` where the chain rule has ``std(x)``: a step
    of SGD then moves s as far as LSQ does. Where s starts, and zero points of activations, are :class:`~.lsq.LSQ`'s.

    Args:
        momentum (float): Share of a new batch in the deviation of activations, in (0, 1]. Defaults to 0.1.
        logarithmic (bool): Whether levels are powers of two apart. Defaults to False.
        pruning (float, optional): Share of weights that become zero, in [0, 1), with logarithmic levels. None, the
            default, makes those zero that are nearest to it.
        **kwargs: See :class:`~.lsq.LSQ`.

    Raises:
        MmacsError: If a setting is out of range, or logarithmic levels are asked for activations or 1 bit.
    """

    recomputable = True
    fused = True
    followed = ('deviation',)

    def __init__(
        self, momentum: float = 0.1, logarithmic: bool = False, pruning: Optional[float] = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_momentum(momentum)
        require_switch('logarithmic', logarithmic)
        if pruning is not None and (not is_number(pruning) or not 0 <= pruning < 1):
            raise MmacsError(
                f'pruning, the share of weights that become zero, must be at least 0 and below 1, got {pruning!r}'
            )
        if pruning is not None and not logarithmic:
            raise MmacsError('pruning is the zero bin of logarithmic levels: set logarithmic=True, or leave it out')
        if logarithmic and self.kind == 'activation':
            raise MmacsError('SDQ has logarithmic levels for weights alone: leave logarithmic out for activations')
        self.momentum = momentum if self.kind == 'activation' else 1.0
        self.uniform = not logarithmic
        self.pruning = pruning
        self._require_bits(self.bits)
        del self.step
        self.alpha = nn.Parameter(torch.ones(self.num_ranges))
        self.register_buffer('deviation', torch.ones(self.num_ranges))

    def _require_bits(self, bits: int) -> None:
        if bits == 1 and not self.uniform:
            raise MmacsError(f'{self.name or "SDQ"} has logarithmic levels, which need 2 bits at least')

    def statistic(self, x: Tensor) -> Tensor:
        """What the start is computed from: a sample, as LSQ's, or rows of what it starts from, and the deviation."""
        if self._takes_samples:
            return super().statistic(x)
        rows = self.memory_rows_of(x)
        start = super().statistic(x) if self.uniform else best_largest(rows, self.bits, self.pruning)
        return torch.cat([start.view(-1, self.num_channels), deviation_of(rows)[None]])

    def set_range(self, statistic: Tensor, level: int, q_min: int, q_max: int) -> None:
        """The step of least error, in units of the deviation."""
        if self._takes_samples:
            start, deviation = statistic, deviation_of(statistic.reshape(1, -1))
        else:
            start, deviation = statistic[:-1], statistic[-1]
            start = start[0] if len(start) == 1 else start
        deviation = fill_zeros(deviation)
        step = self.first_step(start, level, q_max) if self.uniform else fill_zeros(start)
        self.at(self.deviation, level).copy_(deviation)
        self.at(self.alpha, level).copy_(step / deviation)

    def refresh(self, x: Tensor, level: int) -> None:
        """Follow the deviation of the values; it stays where they are all zero, or not finite."""
        found = deviation_of(self.memory_rows_of(x) if self.kind == 'weight' else channel_sample(x, self.range_axis))
        kept = self.at(self.deviation, level)
        kept.lerp_(torch.where((found > 0) & found.isfinite(), found, kept), self.momentum)

    def grid_step(self, level: int, q_min: int, q_max: int) -> Tensor:
        """Returns ``alpha std(x)``: the step, or the largest of logarithmic levels."""
        deviation = self.at(self.deviation, level).clone()  # kept for backward, before which it may follow once more
        alpha = scale_gradient(self.at(self.alpha, level), deviation.clamp_min(1e-12) ** -2)
        return keep_positive(alpha * deviation)

    def fake_quantized(self, x: Tensor, level: int) -> Tensor:
        """Map values of any floating dtype to the levels."""
        if self.uniform:
            return super().fake_quantized(x, level)
        self.watch(x.detach().sum(dtype=torch.float32))
        largest = self.grid_step(level, *self.bounds(level))
        largest = power_of_two_step(largest) if self.power_of_two else largest
        zero = zero_bin(self.memory_rows_of(x.detach()), largest.detach(), self.bits, self.pruning)

        def on_levels(x: Tensor, largest: Tensor, zero: Tensor) -> Tensor:
            return log2_quantize(x.float(), largest, zero, self.bits).to(x.dtype)

        operands = x, largest, zero
        return self.remembered(on_levels, *operands)

    def options(self) -> Dict[str, Any]:
        """Returns ``logarithmic`` and ``pruning`` where they are given, beside what all quantizers tell."""
        own = {'logarithmic': True} if not self.uniform else {}
        return {**super().options(), **own, **({} if self.pruning is None else {'pruning': self.pruning})}

    def stored_values(self) -> int:
        """Returns the number of steps and offsets, or of largest levels."""
        return super().stored_values() if self.uniform else self.num_ranges

    def change_bits(self, bits: int) -> None:
        """Go over to another bit-width; the largest of logarithmic levels stays.

        Raises:
            MmacsError: If ``bits`` is out of range, or 1 with logarithmic levels.
        """
        self._require_bits(bits)
        super().change_bits(bits)

    def multiply_step(self, factor: float) -> None:
        """Multiply all steps, in place."""
        if self.uniform:
            self.alpha.mul_(factor)
