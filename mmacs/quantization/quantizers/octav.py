"""OCTAV: clips that minimise the mean squared error (Sakr et al., ICML 2022, arXiv 2206.06501)."""

from typing import Any

import torch
from torch import Tensor

from mmacs.quantization.fake_quant import keep_positive, per_element, round_to_levels
from mmacs.quantization.mse_clip import channel_sample, clipped_straight_through, mse_clip_of_bits
from mmacs.quantization.quantizers.base import Grid, Quantizer, check_momentum
from mmacs.utils.registry import QUANTIZERS


@QUANTIZERS.register_module()
class OCTAV(Quantizer):
    """Uniform levels whose clip s is computed in every training forward, not learned: :func:`~..mse_clip.mse_clip`.

    The step is ``s / 2^(bits-1)``, or ``s / 2^bits`` without sign. The buffer ``clip`` holds what is in use. Weights'
    clips are those of the weight as it is, over all its elements. Activations' follow the batches by exponential
    moving average, over at most some 32,768 evenly spaced elements of a batch (on normal values and up to 4 bits that
    puts the clip within 3 % and the squared error within 1 % of what all elements give; at 8 bits, whose clip only the
    rarest values decide, within some 10 % and 15 %), and are averaged over processes, see
    :func:`~..synchronise.synchronise_ranges`. In eval mode ranges stay, so that evaluating
    changes no state and gives what :meth:`grid` tells.

    Outside the range the gradient of weights fades as ``s / |x|``, that of activations is 0: the paper's hybrid.

    Args:
        momentum (float): Share of a new batch in the moving average, in (0, 1]; 1 is the paper's clip of each batch.
        **kwargs: See :class:`~.base.Quantizer`.

    Raises:
        MmacsError: If ``momentum`` is out of range.
    """

    recomputable = True
    followed = ('clip',)

    def __init__(self, momentum: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_momentum(momentum)
        self.momentum = momentum if self.kind == 'activation' else 1.0
        self.register_buffer('clip', torch.ones(self.num_ranges))

    def steps_to_clip(self, signed: bool) -> int:
        """Returns the number of steps from 0 to the clip."""
        return 2 ** (self.bits - signed)

    def best_clip(self, x: Tensor, signed: bool) -> Tensor:
        """Clip of float32 values that minimises their mean squared error, shape (number of channels,)."""
        rows = self.memory_rows_of(x) if self.kind == 'weight' else channel_sample(x, self.range_axis)
        return mse_clip_of_bits(rows, self.bits, signed)

    def statistic(self, x: Tensor) -> Tensor:
        """Best clips without and with sign, shape (2, number of channels)."""
        return torch.stack([self.best_clip(x, signed) for signed in (False, True)])

    def set_range(self, statistic: Tensor, level: int, q_min: int, q_max: int) -> None:
        """The clip for the sign that the data have."""
        self.at(self.clip, level).copy_(statistic[int(self.level_is_signed(level))])

    def refresh(self, x: Tensor, level: int) -> None:
        """Follow the values; a range stays where they are all zero, or not finite."""
        found = self.best_clip(x, self.level_is_signed(level))
        clip = self.at(self.clip, level)
        clip.lerp_(torch.where((found > 0) & found.isfinite(), found, clip), self.momentum)

    def grid_step(self, level: int, q_min: int, q_max: int) -> Tensor:
        """Returns the clip in its number of steps."""
        return keep_positive(self.at(self.clip, level)) / self.steps_to_clip(self.level_is_signed(level))

    def fake_quantize(self, x: Tensor, step: Tensor, q_min: int, q_max: int) -> Tensor:
        """``s * round(clip(x / s, q_min, q_max))``."""
        return round_to_levels(x, step, q_min, q_max)

    def quantize(self, x: Tensor, grid: Grid) -> Tensor:
        """Map float32 values to a grid, with the hybrid gradient."""
        signed = grid.q_min < 0 or grid.offset is not None  # one bit of both signs has an offset
        clip = per_element(grid.step * self.steps_to_clip(signed), x)
        return clipped_straight_through(x, super().quantize(x.detach(), grid), clip, signed, self.kind == 'weight')
