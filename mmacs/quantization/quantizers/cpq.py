"""CPQ: cluster-promoting quantization, and DropBits (Lee et al., ICCV 2021, arXiv 2109.02100)."""

from typing import Any

import torch
from torch import Tensor

from mmacs.quantization.class_probabilities import Level, quantize_to_mode
from mmacs.quantization.quantizers.base import Grid
from mmacs.quantization.quantizers.lsq import LSQ
from mmacs.utils.checks import is_number
from mmacs.utils.errors import MmacsError
from mmacs.utils.registry import QUANTIZERS


@QUANTIZERS.register_module()
class CPQ(LSQ):
    """Uniform levels, as classes: rounding takes the likeliest one, the gradient is that of the probabilities.

    *Experimental*: of the paper only the abstract was at hand, and this is our reading of it.

    - "the categorical distribution designed by a specific probabilistic parametrization in the forward pass": the
      classes are the grid points ``s k``, their probabilities the masses of a logistic distribution around the value,
      of scale ``temperature`` times s and without noise. The value becomes the likeliest grid point, its mode.
    - "our proposed multi-class straight-through estimator in the backward pass": the gradient to that choice is passed
      to all probabilities, and through them to value and step, see
      :func:`~..class_probabilities.quantize_to_mode`.
    - "finds the optimal quantization grids while naturally encouraging the underlying full-precision weights to gather
      around those quantization grids": the step is learned, and starts as :class:`~.lsq.LSQ`'s. A value's gradient is
      least at a grid point and largest between two, so that values leave the borders and stay at the points.
    - "DropBits, that revises the standard dropout regularization to randomly drop bits instead of neurons" (``drop``):
      in each training forward the highest bit is left out at this chance, then the next one, and so on. What it leaves
      are the inner levels, which the outer values are mapped to. One bit stays, and a sign.

    The paper's learned bit-widths, by a penalty on the chances of DropBits, are not here: ``mmacs.AdaptiveBitsHook``
    learns one bit-width for all weights, and the solver of ``mmacs choose-bits`` finds those of layers.

    Args:
        temperature (float): Scale of the logistic distribution in steps, above 0 and at most 1/4. The smaller, the more
            values gather at grid points. Defaults to 1/6, our choice: the gradient is 0.54 at grid points and 1.53
            between them.
        drop (float): Chance of a bit to be left out in training, at least 0 and below 1. Defaults to 0; comparisons
            have 0.1 of weights as ``CPQ-DropBits``.
        **kwargs: See :class:`~.lsq.LSQ`.

    Raises:
        MmacsError: If a setting is out of range.
    """

    recomputable = True

    def __init__(self, temperature: float = 1 / 6, drop: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not is_number(temperature) or not 0 < temperature <= 0.25:
            raise MmacsError(f'temperature, in steps, must be above 0 and at most 0.25, got {temperature!r}')
        if not is_number(drop) or not 0 <= drop < 1:
            raise MmacsError(f'drop, the chance of a bit to be left out, must be at least 0 and below 1, got {drop!r}')
        self.temperature = temperature
        self.drop = drop

    def grid_of_forward(self, level: int) -> Grid:
        """Returns the levels in use, in training those that DropBits leaves."""
        grid = self.grid(level)
        droppable = self.bits - (2 if grid.q_min < 0 else 1)
        if not self.training or not self.drop or droppable < 1:
            return grid
        is_dropped = torch.rand(droppable, device=grid.step.device) < self.drop
        share = 0.5 ** is_dropped.int().cumprod(0).sum()
        return grid._replace(q_min=(grid.q_min * share).floor(), q_max=(grid.q_max * share).floor())

    def fake_quantize(self, x: Tensor, step: Tensor, q_min: Level, q_max: Level) -> Tensor:
        """Map values to the likeliest grid point."""
        return quantize_to_mode(x, step, q_min, q_max, self.temperature)
