"""What every quantizer has: bit-width, steps, flags, calibration, and per-level steps of shared layers."""

from typing import List, Optional, Tuple

import torch
from mmengine.dist import is_distributed
from torch import Tensor, nn

from mmacs.errors import MmacsError
from mmacs.quantization.fake_quant import level_bounds

MAX_BITS = 16


def check_bits(bits: object) -> None:
    """Raise an :class:`MmacsError` unless ``bits`` is an integer from 1 to 16."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= MAX_BITS:
        raise MmacsError(f'bits must be an integer from 1 to {MAX_BITS}, or 32 for full precision, got {bits!r}')


class Quantizer(nn.Module):
    """Fake-quantizes one tensor of one layer: its weight or its input.

    All state is present from construction, so that ``state_dict`` keys never depend on progress: ``step`` (a
    parameter), ``initialized``, ``signed`` and ``step_bits``, the bit-width that the step is for (uint8 buffers).

    A layer that is called several times within one forward, as RetinaNet's head is once per pyramid level, can have
    a step per call (``num_levels`` > 1), addressed by ``calls``, which the head sets to 0 as its forward begins.

    Args:
        bits (int): Bit-width, 1 to 16.
        signed (bool, optional): Whether there are negative levels. None decides from the data at calibration.
        num_channels (int): Number of steps along the tensor's first axis; 1 is one step per tensor.
        num_levels (int): Number of calls per forward that have a step of their own. Only with ``num_channels=1``.

    Raises:
        MmacsError: If ``bits`` is out of range.
    """

    def __init__(
        self, bits: int = 4, signed: Optional[bool] = None, num_channels: int = 1, num_levels: int = 1
    ) -> None:
        super().__init__()
        check_bits(bits)
        assert num_channels == 1 or num_levels == 1, 'a step per channel and per level at once is not supported'
        self.bits = bits
        self.num_levels = num_levels
        self.name = ''
        self.enabled = True
        self.observing = False
        self.calls = 0
        self.step = nn.Parameter(torch.ones(max(num_channels, num_levels)))
        self.register_buffer('initialized', torch.zeros(num_levels, dtype=torch.uint8))
        self.register_buffer('signed', torch.full((num_levels,), signed is not False, dtype=torch.uint8))
        self.register_buffer('step_bits', torch.tensor([bits], dtype=torch.uint8))
        self._signed_by_user = signed
        self._flags_cache: Optional[Tuple[Tuple[int, int], List[Tuple[bool, bool]]]] = None
        self._observed: List[List[Tuple[Tensor, bool]]] = [[] for _ in range(num_levels)]

    # ---------------------------------------------------------------- to be written by each quantizer
    def statistic(self, x: Tensor) -> Tensor:
        """Reduce a tensor to what the initial step is computed from, shape (number of channels,)."""
        raise NotImplementedError

    def initial_step(self, statistic: Tensor, q_min: int, q_max: int) -> Tensor:
        """Initial step sizes from the statistic averaged over calibration batches."""
        raise NotImplementedError

    def fake_quantize(self, x: Tensor, step: Tensor, q_min: int, q_max: int) -> Tensor:
        """Fake-quantize float32 values with positive steps of shape (1,) or (number of channels,)."""
        raise NotImplementedError

    # ---------------------------------------------------------------- forward
    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize ``x`` (any shape, any floating dtype); arithmetic is float32, the dtype is kept."""
        if not self.enabled or x.numel() == 0:
            return x
        level = self._next_level()
        if self.observing:
            self._observe(x, level)
            return x
        initialized, signed = self._flags()[level]
        if not initialized:
            self._initialize_from(x, level)
            signed = self._flags()[level][1]
        with torch.autocast(x.device.type, enabled=False):
            q_min, q_max = level_bounds(self.bits, signed)
            step = self.positive_step()
            step = step[level : level + 1] if self.num_levels > 1 else step
            return self.fake_quantize(x.float(), step, q_min, q_max).to(x.dtype)

    def positive_step(self) -> Tensor:
        """The step sizes in use: the parameter's magnitude, kept away from zero, whatever the optimizer did."""
        return self.step.abs().clamp_min(torch.finfo(torch.float32).tiny * 1e8)

    def level_is_signed(self, level: int = 0) -> bool:
        """Whether the quantizer has negative levels at a pyramid level."""
        return self._flags()[level][1]

    def forget_observations(self) -> None:
        """Leave observing without setting any step."""
        self.observing = False
        self._observed = [[] for _ in range(self.num_levels)]

    def is_initialized(self) -> bool:
        """Whether at least one level has its step (a level that is never called never gets one)."""
        return any(initialized for initialized, _ in self._flags())

    def _next_level(self) -> int:
        if self.num_levels == 1:
            return 0
        level, self.calls = self.calls, self.calls + 1
        if level >= self.num_levels:
            raise MmacsError(
                f'{self.name} was called more than {self.num_levels} times in one forward, but it has one step per '
                f'pyramid level: set per_level=False, or the number of calls, for this layer in the recipe'
            )
        return level

    # ---------------------------------------------------------------- calibration
    def _observe(self, x: Tensor, level: int) -> None:
        x = x.detach().float()
        if not torch.isfinite(x).all():
            raise MmacsError(f'{self.name} met NaN or Inf while calibrating')
        self._observed[level].append((self.statistic(x), bool((x < 0).any())))

    def start_observing(self) -> None:
        """Pass tensors through unchanged from now on and collect their statistics."""
        self.forget_observations()
        self.observing = True

    @torch.no_grad()
    def finish_observing(self) -> None:
        """Set the steps of every level that was seen and quantize from now on."""
        for level, observed in enumerate(self._observed):
            if not observed:
                continue
            signed = self._signed_by_user
            if signed is None:
                signed = any(negative for _, negative in observed)
            statistic = torch.stack([statistic for statistic, _ in observed]).mean(0)
            q_min, q_max = level_bounds(self.bits, signed)
            if q_max < 1:
                raise MmacsError(f'{self.name} sees negative values, which need at least 2 bits, got 1')
            target = self.step[level : level + 1] if self.num_levels > 1 else self.step
            target.copy_(self.initial_step(statistic, q_min, q_max))
            self.signed[level] = int(signed)
            self.initialized[level] = 1
        self.forget_observations()

    def _initialize_from(self, x: Tensor, level: int) -> None:
        """Take the step from the first training batch, as LSQ does; anything else is a mistake to be told about."""
        if not self.training or is_distributed():
            raise MmacsError(
                f'{self.name} was never calibrated: call mmacs.quantization.calibrate(model, batches), '
                f'add the hook mmacs.QuantizationHook, or load a checkpoint of a quantized model'
            )
        self._observe(x, level)
        self.finish_observing()

    # ---------------------------------------------------------------- state
    def _flags(self) -> List[Tuple[bool, bool]]:
        """(initialized, signed) per level as Python values, re-read when the buffers changed.

        Reading a buffer on a GPU stalls it, so that is done once, not in every forward.
        """
        version = (self.initialized._version, self.signed._version)
        if self._flags_cache is None or self._flags_cache[0] != version:
            flags = [(bool(i), bool(s)) for i, s in zip(self.initialized.tolist(), self.signed.tolist())]
            self._flags_cache = (version, flags)
        return self._flags_cache[1]

    def train(self, mode: bool = True) -> 'Quantizer':
        """Switch the mode; flags are re-read next time, since ``tensor.data`` writes leave no trace."""
        self._flags_cache = None
        return super().train(mode)

    def _apply(self, fn, *args, **kwargs):
        self._flags_cache = None
        return super()._apply(fn, *args, **kwargs)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        """Load; a full-precision checkpoint, which has nothing for this quantizer, is no mistake."""
        if not any(key.startswith(prefix) for key in state_dict):
            return
        bits = state_dict.get(prefix + 'step_bits')
        if bits is not None and int(bits) != self.bits:
            raise MmacsError(
                f'{self.name} has {self.bits} bits, but the checkpoint has step sizes for {int(bits)}: use the recipe '
                f'that the checkpoint was trained with, or start from a full-precision checkpoint'
            )
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._flags_cache = None

    def extra_repr(self) -> str:
        """Bit-width and number of steps, for ``print(model)``."""
        return f'bits={self.bits}, steps={self.step.numel()}'
