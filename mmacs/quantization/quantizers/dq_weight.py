"""Weights of Direct Quantization (Hoang et al., IJCAI 2020, arXiv 2012.13762)."""

import math
from typing import Any, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mmacs.quantization.memory_order import format_of
from mmacs.quantization.mse_clip import mse_clip
from mmacs.quantization.quantizers.base import Quantizer
from mmacs.quantization.recompute import remember
from mmacs.utils.errors import MmacsError
from mmacs.utils.registry import QUANTIZERS

ALTERNATIONS = 3


def code_table(bits: int) -> Tensor:
    """All codes of K bits as rows of -1 and +1, float32, shape (2^K, K)."""
    codes = torch.arange(2**bits)[:, None] >> torch.arange(bits)
    return (codes & 1) * 2.0 - 1


def nearest(values: Tensor, levels: Tensor) -> Tensor:
    """Index of the nearest level.

    Args:
        values (Tensor): Shape (C, n).
        levels (Tensor): Levels of each channel in any order, shape (C, L).

    Returns:
        Tensor: Indices into the second axis of ``levels``, int64, shape (C, n).
    """
    ordered, order = levels.sort(1)
    borders = (ordered[:, 1:] + ordered[:, :-1]) / 2
    return order.gather(1, torch.searchsorted(borders, values.contiguous()))


def fit_basis(weight: Tensor, bits: int) -> Tensor:
    """Basis v of which ``sum_i v_i b_i``, b_i in {-1, +1}, comes near to a weight in the least-squares sense.

    Starts from evenly spaced levels in the clip of least error, then alternates between the nearest level for each
    value and the least-squares basis for these bits, as LQ-Nets do (Zhang et al., ECCV 2018, arXiv 1807.10029,
    algorithm 1): no round makes the error larger. (A greedy start, v_i being the mean magnitude of what the bits before
    leave, would take tens of rounds to become as good as even levels from 4 bits up.)

    Args:
        weight (Tensor): float32, shape (C, n), a basis for each row.
        bits (int): Number K of basis values.

    Returns:
        Tensor: Shape (K, C), not negative; zeros for a row of zeros.
    """
    halves = 0.5 ** torch.arange(1.0, bits + 1, device=weight.device)
    basis = halves[:, None] * mse_clip(weight.abs(), 2 ** (bits - 1))
    table = code_table(bits).to(weight.device)
    for _ in range(ALTERNATIONS):
        codes = table[nearest(weight, basis.T @ table.T)]  # (C, n, K)
        gram = codes.transpose(1, 2) @ codes
        # rows with fewer values than bits have many solutions: the pseudo-inverse takes the least one
        solved = torch.linalg.pinv(gram.double(), hermitian=True) @ (weight[:, None] @ codes)[:, 0, :, None].double()
        basis = solved[..., 0].T.abs().float()  # the set of levels is the same under a change of sign
    return basis


def margins(weight: Tensor, basis: Tensor) -> Tensor:
    """Returns how far each bit of the nearest level is from flipping, with the bit's sign.

    Half the difference of the distances to the nearest level whose bit is -1 and to the nearest whose bit is +1:
    between the two it is the way to the point where they are equally near. It is at most ``basis`` in magnitude, since
    flipping the bit alone moves a level by twice that.

    Args:
        weight (Tensor): float32, shape (C, n).
        basis (Tensor): Shape (K, C), not negative.

    Returns:
        Tensor: float32, shape (K, C, n).
    """
    table = code_table(len(basis)).to(weight.device)
    levels = basis.T @ table.T

    def distance(some: Tensor) -> Tensor:
        return (weight - some.gather(1, nearest(weight, some))).abs()

    return torch.stack([distance(levels[:, bit < 0]) - distance(levels[:, bit > 0]) for bit in table.T]) / 2


def _bits(variable: Tensor) -> Tensor:
    """Signs as -1.0 and +1.0, also of zero."""
    return torch.copysign(torch.ones((), device=variable.device), variable)


class _BasisTimesBits(torch.autograd.Function):
    """``w = sum_i v_i sign(P_i)`` with P = variables / unit; see :class:`DQWeight`."""

    @staticmethod
    def forward(ctx, basis: Tensor, variables: Tensor, unit: Tensor) -> Tensor:
        ctx.save_for_backward(basis, variables, unit)
        weight = torch.zeros_like(variables[0])
        for v, variable in zip(basis[..., None], variables):
            weight = weight.addcmul(_bits(variable), v)  # in place, its gradient would be zero if compiled (torch 2.11)
        return weight

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tuple[Tensor, Tensor, None]:
        basis, variables, unit = ctx.saved_tensors
        grad_basis, grad_variables = torch.empty_like(basis), torch.empty_like(variables)
        for i, (variable, limit) in enumerate(zip(variables, unit[..., None])):
            grad_basis[i] = (_bits(variable) * grad).sum(1)
            pull = torch.mul(grad, basis[i, :, None] / limit, out=grad_variables[i])
            # the step is against the gradient: it leads out where, with the gradient's sign, P is below -1
            inward = pull.sign().mul_(variable)
            pull.mul_(torch.ge(inward, -limit, out=inward))
        return grad_basis, grad_variables, None


@QUANTIZERS.register_module()
class DQWeight(Quantizer):
    """A weight that is quantized from the start: ``w_hat = sum_i v_i b_i`` with K = ``bits`` bits b_i in {-1, +1}.

    No full-precision weight is rounded: the basis v, and with it the 2^K levels, and the bits are what is trained. From
    the paper's abstract: no full-precision copy, quantized weights updated directly, learned levels. All that follows
    is our reading. Each bit is the sign of a small auxiliary variable P_i, with straight-through gradients::

        dL/dv_i = sum_j b_ij dL/dw_hat_j        dL/dP_i = v_i dL/dw_hat 1[|P_i| <= 1]

    except that beyond 1 a gradient that leads back still passes: otherwise a bit that one step carried past 1 would
    stay there for ever.

    What is stored are P and v in units in which the learning rate r of ordinary weights serves for both:

    - ``bit_variables_i = P_i unit_i``, with the constant ``unit_i = sqrt(K) v_i`` of the calibration. A step of SGD
      moves P_i by ``-r v_i / unit_i^2 dL/dw_hat``. Of bits whose P_i are spread over [-1, 1] half of that share flips,
      each by 2 v_i: w_hat moves by ``-r dL/dw_hat sum_i (v_i / unit_i)^2`` on average, which this unit makes the step
      of SGD on an ordinary weight, each bit giving an equal part of it. With one unit for all bits nearly all of the
      movement would be flips of the largest v_i, the roughest ones.
    - ``basis_i = v_i sqrt(n)``, n the number of weights that share v_i. A step of SGD then moves w_hat by
      ``-r / n sum_i b_i (b_i . dL/dw_hat)``, which is the part of an ordinary weight's step that lies along the bits.
      Of v_i itself it would be n times that, and diverges.

    Calibration fits basis and bits to the layer's weight, see :func:`fit_basis` and :func:`margins`, and starts with
    ``P_i = margin_i / v_i``: within [-1, 1], and small where a bit is near to flipping. After that the layer's weight
    plays no part, and serves only the model in full precision, with quantizers disabled.

    Args:
        shape (Sequence[int]): Shape of the weight, output channels first.
        **kwargs: See :class:`~.base.Quantizer`.

    Raises:
        MmacsError: If ``power_of_two`` is asked for, or another bit-width later.
    """

    kinds = ('weight',)
    uniform = False
    replaces_weight = True

    def __init__(self, shape: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.power_of_two:
            raise MmacsError('DQWeight learns its levels and has no step: leave power_of_two out of its settings')
        self.sharing = math.prod(shape) // self.num_channels
        self.basis = nn.Parameter(torch.ones(self.bits, self.num_channels))
        self.bit_variables = nn.Parameter(torch.zeros(self.bits, *shape))
        self.register_buffer('unit', torch.ones(self.bits, self.num_channels))

    def statistic(self, x: Tensor) -> Tensor:
        """The weight itself, shape (number of channels, elements of each), in the order of ``bit_variables``."""
        return self.by_channel(x)

    def combine(self, statistics: Tensor) -> Tensor:
        """The weight is the same in every batch."""
        return statistics[0]

    def set_range(self, statistic: Tensor, level: int, q_min: int, q_max: int) -> None:
        """Fit basis, bits and units to the weight."""
        basis = fit_basis(statistic, self.bits)
        # a v_i is zero where fewer levels suffice: its unit is then that of the finest levels
        unit = math.sqrt(self.bits) * basis.maximum(basis.amax(0) / 2**self.bits)
        alive = unit[0] > 0  # channels that are all zero take the mean of the others
        unit[:, ~alive] = unit[:, alive].mean(1, keepdim=True) if alive.any() else 1.0
        self.basis.copy_(basis * math.sqrt(self.sharing))
        self.unit.copy_(unit)
        self.bit_variables.copy_((math.sqrt(self.bits) * margins(statistic, basis)).view_as(self.bit_variables))

    def fake_quantized(self, x: Tensor, level: int) -> Tensor:
        """The weight that basis and bits make, in shape, dtype and layout of ``x``, whose values don't matter."""
        shape, dtype, layout = x.shape, x.dtype, format_of(x)

        def weight(basis: Tensor, variables: Tensor, unit: Tensor) -> Tensor:
            rows = _BasisTimesBits.apply(basis, variables.reshape(*basis.shape, -1), unit)
            return rows.view(shape).to(dtype, memory_format=layout)

        tensors = self.basis / math.sqrt(self.sharing), self.bit_variables, self.unit
        return remember(weight(*tensors), weight, *tensors)

    def stored_values(self) -> int:
        """Returns the size of the basis."""
        return self.num_ranges * self.bits

    def change_bits(self, bits: int) -> None:
        """Refused: the bits are what is trained."""
        raise MmacsError(
            f'{self.name} is a DQWeight of {self.bits} bits, each of them trained: choose its bit-width in the recipe'
        )
