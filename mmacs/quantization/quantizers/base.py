"""What every quantizer has: bit-width, a grid of levels, flags, calibration, and per-level ranges of shared layers."""

import math
import warnings
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor

from mmacs.quantization.fake_quant import level_bounds, per_element, power_of_two_step, reads_are_free
from mmacs.quantization.memory_order import memory_rows
from mmacs.quantization.mse_clip import channel_sample
from mmacs.quantization.processes import world_size
from mmacs.quantization.quantizers.flags import ASYMMETRIC, SYMMETRIC, UNSIGNED, RangeFlags
from mmacs.quantization.quantizers.flags import Flags as Flags
from mmacs.quantization.quantizers.grid import MAX_BITS as MAX_BITS
from mmacs.quantization.quantizers.grid import Grid, check_bits
from mmacs.quantization.quantizers.grid import check_momentum as check_momentum
from mmacs.quantization.quantizers.kept import Kept
from mmacs.quantization.quantizers.loading import before_0_2, require_own_state
from mmacs.quantization.recompute import keeping_inputs, remember
from mmacs.quantization.width import at_each_width, at_this_width
from mmacs.utils.errors import MmacsError

KINDS = ('weight', 'activation')


class Quantizer(RangeFlags):
    """Fake-quantizes one tensor of one layer: its weight or an input.

    All state is present from construction, so that ``state_dict`` keys never depend on progress: what the range is
    made of (parameters or buffers of each quantizer), and the uint8 buffers ``initialized``, ``signed``
    (:data:`UNSIGNED`, :data:`SYMMETRIC` or :data:`ASYMMETRIC`) and ``step_bits``, the bit-width that the range is for.

    A layer that is called several times within one forward, as RetinaNet's head is once per pyramid level, can have
    a range per call (``num_levels`` > 1), addressed by ``calls``, which the head sets to 0 as its forward begins.

    A quantizer of its own writes :meth:`statistic`, :meth:`set_range`, :meth:`grid_step` and :meth:`fake_quantize`;
    one whose range follows the data also :meth:`refresh`, an asymmetric one :meth:`grid_offset`. What ``recomputable``
    and ``fused`` say holds for the methods of the class that says it: a subclass that overrides ``quantize``,
    ``fake_quantize`` or ``refresh`` says it again, or has neither.

    Args:
        bits (int): Bit-width, 1 to 16.
        signed (bool, optional): Whether there are negative levels, as many as positive ones. None decides from the data
            at calibration: none for data without negative values; else an asymmetric grid for activations, if the
            method has one.
        kind (str): ``'weight'`` or ``'activation'``.
        num_channels (int): Number of ranges along the tensor's first axis; 1 is one range per tensor. Their grids are
            symmetric, or all without negative levels.
        num_levels (int): Number of calls per forward that have a range of their own. Only with ``num_channels=1``.
        power_of_two (bool): Whether steps are rounded to powers of two, which hardware multiplies by shifting.

    Raises:
        MmacsError: If ``bits`` is out of range.
    """

    kinds: Sequence[str] = KINDS  # what it can quantize
    uniform = True  # whether its levels are those of a :class:`Grid`
    followed: Sequence[str] = ()  # buffers that follow the values, of which each process sees its own
    # Whether ``quantize`` is a function of values, step and offset alone, without random numbers, side effects and
    # other tensors that learn: backward then runs it again instead of keeping what it computes
    recomputable = False
    # Whether ``fake_quantize`` and ``refresh`` take any dtype, and ``fake_quantize`` keeps nothing but its arguments
    # for backward and calls ``watch``
    fused = False
    asymmetric = False  # whether it has grids with an integer zero point, for activations with a few negative values
    replaces_weight = False  # whether it holds quantized weights of its own, so that the layer's stay as they were
    follows_run = False  # whether it has a buffer ``progress``, the share of the run that is done, see `set_progress`

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if {'quantize', 'fake_quantize', 'refresh'} & vars(cls).keys():
            cls.recomputable = vars(cls).get('recomputable', False)
            cls.fused = vars(cls).get('fused', False)

    def __init__(
        self,
        bits: int = 4,
        signed: Optional[bool] = None,
        kind: str = 'activation',
        num_channels: int = 1,
        num_levels: int = 1,
        power_of_two: bool = False,
    ) -> None:
        super().__init__(num_levels, signed is not False)
        check_bits(bits)
        assert num_channels == 1 or num_levels == 1, 'a range per channel and per level at once is not supported'
        assert kind in self.kinds, f'{type(self).__name__} does not quantize a {kind}'
        self.bits = bits
        self.kind = kind
        self.num_channels = num_channels
        self.num_levels = num_levels
        self.power_of_two = power_of_two
        self.name = ''
        self.enabled = True
        self.observing = False
        self.calls = 0
        # How many read each level's tensor, and what is kept for them while a forward runs
        self.reads = (1,) * num_levels
        self.values_of_this_forward: Optional[Dict[Tuple[int, bool], Kept]] = None
        self.register_buffer('step_bits', torch.tensor([bits], dtype=torch.uint8))
        # On a GPU, where looking at every tensor would stall the stream: whether a NaN or Inf was met, by this process.
        # No buffer, which DistributedDataParallel would overwrite in each forward
        self.met_nonfinite = torch.zeros(1, dtype=torch.bool)
        # Whether training met negative values where calibration met none, see `notice_negative`
        self.met_negative = torch.zeros(1, dtype=torch.bool)
        self.warned_of_negative = False
        self._signed_by_user = signed
        self._observed: List[List[Tuple[Tensor, bool]]] = [[] for _ in range(num_levels)]

    @property
    def num_ranges(self) -> int:
        """Number of ranges: channels or pyramid levels."""
        return max(self.num_channels, self.num_levels)

    # ---------------------------------------------------------------- to be written by each quantizer
    def statistic(self, x: Tensor) -> Tensor:
        """Reduce float32 values to what the initial range is computed from, shape (..., number of channels)."""
        raise NotImplementedError

    def combine(self, statistics: Tensor) -> Tensor:
        """Statistics of calibration batches, stacked along a first axis, as one; the mean unless overridden."""
        return statistics.mean(0)

    def combined(self, statistics: List[Tensor]) -> Tensor:
        """Statistics of calibration batches as one: :meth:`combine`, unless their shapes differ."""
        return self.combine(torch.stack(statistics))

    def set_range(self, statistic: Tensor, level: int, q_min: int, q_max: int) -> None:
        """Write the initial range of a level, see :meth:`at`, from the combined statistic."""
        raise NotImplementedError

    def refresh(self, x: Tensor, level: int) -> None:
        """In training, let the range follow the values that are about to be quantized, without gradient.

        Args:
            x (Tensor): Values, float32.
            level (int): Pyramid level.
        """

    def grid_step(self, level: int, q_min: int, q_max: int) -> Tensor:
        """Positive step sizes of a level, shape (1,) or (number of channels,), differentiable where learned."""
        raise NotImplementedError

    def grid_offset(self, level: int, step: Tensor, q_max: int) -> Optional[Tensor]:
        """Offset of the grid. With one bit and both signs the two levels are ``-step/2`` and ``+step/2``."""
        return -step / 2 if self.bits == 1 and self.level_is_signed(level) else None

    def fake_quantize(self, x: Tensor, step: Tensor, q_min: int, q_max: int) -> Tensor:
        """Fake-quantize float32 values to ``step * k``, k in [q_min, q_max], with the method's own gradients."""
        raise NotImplementedError

    # ---------------------------------------------------------------- forward
    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize ``x`` (any shape, any floating dtype); arithmetic is float32, the dtype is kept."""
        return self.at_level(x, self._next_level()) if self.enabled else x

    def at_level(self, x: Tensor, level: int) -> Tensor:
        """Fake-quantize ``x`` by the range of a level; once in a forward, if several read it there.

        What others read of a tensor is kept from the first until the last of them, one tensor for each level. Outside
        of a marked forward, see :mod:`~.sharing`, each call computes.
        """
        kept = self.values_of_this_forward
        if kept is None or self.reads[level] == 1:
            return self._quantized(x, level)
        key = level, torch.is_grad_enabled()
        found = kept.get(key)
        if found is None or not found.is_of(x):
            kept[key] = Kept(x, self._quantized(x, level), self.reads[level] - 1)
            return kept[key].y
        found.left -= 1
        if found.left == 0:
            del kept[key]
        return found.y

    def _quantized(self, x: Tensor, level: int) -> Tensor:
        if x.numel() == 0:
            return x
        if self.observing:
            self._observe(x, level)
            return x
        if not self._flags()[level].initialized:
            self._initialize_from(x, level)
        with torch.autocast(x.device.type, enabled=False):
            if not self.fused:
                self.watch(x.detach().sum(dtype=torch.float32))
            if self.training:  # evaluating changes no state
                self.notice_negative(x.detach(), level)
                with torch.no_grad():
                    self.refresh(x.detach() if self.fused else x.detach().float(), level)
            return self.fake_quantized(x, level)

    def fake_quantized(self, x: Tensor, level: int) -> Tensor:
        """Map values of any floating dtype to the grid of a level."""
        step, offset, q_min, q_max = self.grid_of_forward(level)
        if self.fused and offset is None:
            return self.fake_quantize(x, step, q_min, q_max)

        def on_grid(x: Tensor, step: Tensor, offset: Optional[Tensor] = None) -> Tensor:
            return self.quantize(x.float(), Grid(step, offset, q_min, q_max)).to(x.dtype)

        operands = (x, step) if offset is None else (x, step, offset)
        if not self.recomputable:
            return on_grid(*operands)
        return self.remembered(on_grid, *operands)

    def remembered(self, function: Callable[..., Tensor], *operands: Tensor) -> Tensor:
        """Returns a function of tensors, of which backward keeps these alone and computes it again."""
        function = at_this_width(self, function)
        return remember(keeping_inputs(function, *operands), function, *operands)

    def quantize(self, x: Tensor, grid: Grid) -> Tensor:
        """Map float32 values to a grid, with gradients to them and to what the grid is made of."""
        step, offset, q_min, q_max = grid
        if offset is None:
            return self.fake_quantize(x, step, q_min, q_max)
        offset = per_element(offset, x)
        return self.fake_quantize(x - offset, step, q_min, q_max) + offset

    def grid(self, level: int = 0) -> Grid:
        """Returns the levels in use, differentiable with respect to what is learned.

        Raises:
            MmacsError: If the quantizer's levels are not evenly spaced.
        """
        if not self.uniform:
            raise MmacsError(f'{self.name} is a {type(self).__name__}, whose levels are not evenly spaced')
        q_min, q_max = self.bounds(level)
        step = self.grid_step(level, q_min, q_max)
        if self.power_of_two:
            step = power_of_two_step(step)
        return Grid(step, self.grid_offset(level, step, q_max), q_min, q_max)

    def grid_of_forward(self, level: int) -> Grid:
        """Returns what values are mapped to in a forward: all levels, unless the method leaves some out in training."""
        return self.grid(level)

    def bounds(self, level: int = 0) -> Tuple[int, int]:
        """Lowest and highest integer level at a pyramid level."""
        return level_bounds(self.bits, self.level_is_signed(level) and self.bits > 1)

    def at(self, state: Tensor, level: int) -> Tensor:
        """Returns the part of a per-range tensor that belongs to a pyramid level: a view of its last axis."""
        return state[..., level : level + 1] if self.num_levels > 1 else state

    @property
    def range_axis(self) -> Optional[int]:
        """Axis along which there are several ranges; None if there is one for all."""
        return 0 if self.num_channels > 1 else None

    def by_channel(self, x: Tensor) -> Tensor:
        """Returns the values as (number of channels, elements that share a range)."""
        return x.reshape(self.num_channels, -1)

    def memory_rows_of(self, x: Tensor) -> Tensor:
        """:meth:`by_channel` as float32, with the elements of a range in the order of memory, which copies less."""
        if torch.compiler.is_compiling():  # strides may be unknown
            return self.by_channel(x.float())
        return memory_rows(x, self.num_channels)[1].float()

    def options(self) -> Dict[str, Any]:
        """Returns the settings beside type, bits and ranges that its levels depend on, where they are not the defaults.

        Plain values: they travel in checkpoints, see :class:`~..specification.QuantizerSpecification`.
        """
        return {'power_of_two': True} if self.power_of_two else {}

    def alike(self, y: Tensor) -> Optional[Tensor]:
        """Returns some of the quantized values that share their levels; None where all of a range do."""
        return None

    def stored_values(self) -> int:
        """Returns how many float32 values describe its levels: steps and offsets, unless the method has others."""
        has_offset = self.bits > 1 and self.grid().offset is not None
        return self.num_ranges * (2 if has_offset else 1)

    def change_bits(self, bits: int) -> None:
        """Go over to another bit-width; the represented range stays, unless the method has a better rule.

        Raises:
            MmacsError: If ``bits`` is out of range, or the quantizer can't.
        """
        check_bits(bits)
        self.bits = bits
        self.step_bits.fill_(bits)

    def _next_level(self) -> int:
        if self.num_levels == 1:
            return 0
        level, self.calls = self.calls, self.calls + 1
        if level >= self.num_levels:
            self.refuse_call(self.num_levels)
        return level

    def refuse_call(self, num_calls: int) -> None:
        """Raise the error for more calls in one forward than there are ranges for."""
        raise MmacsError(
            f'{self.name} was called more than {num_calls} times in one forward, but it has one range per pyramid '
            f'level: set per_level=False, or the number of calls, for this layer in the recipe'
        )

    def watch(self, total: Union[float, Tensor]) -> None:
        """Look at the sum of values, and at what is learned: a NaN would be rounded to some level and hidden.

        Raises:
            MmacsError: On a CPU, if there is NaN or Inf. Elsewhere ``met_nonfinite`` remembers it.
        """
        for learned in self._parameters.values():
            total = total + learned.detach().sum()
        if not isinstance(total, Tensor) or reads_are_free(total):
            if not math.isfinite(total):
                self.refuse_nonfinite()
        else:
            self.met_nonfinite.logical_or_(~total.isfinite())

    def notice_negative(self, x: Tensor, level: int) -> None:
        """Look for negative values where calibration met none: they become zero, and get no gradient.

        At a sample, unless a compiler makes one pass of all that reads the values. On a CPU they are warned of where
        they appear; elsewhere ``met_negative`` remembers them, and whoever trains calls :meth:`warn_of_negative`.

        Args:
            x (Tensor): Values of any shape and floating dtype.
            level (int): Pyramid level.
        """
        if self.warned_of_negative or not self.loses_negative(level):
            return
        lowest = x.amin() if torch.compiler.is_compiling() else channel_sample(x).amin()
        if not reads_are_free(lowest):
            self.met_negative.logical_or_(lowest < 0)
        elif lowest < 0:
            self.warn_of_negative()

    def loses_negative(self, level: int) -> bool:
        """Returns whether negative values become zero at a level because calibration met none."""
        return self._signed_by_user is None and not self.level_is_signed(level)

    @torch.compiler.disable
    def warn_of_negative(self) -> None:
        """Warn, once, that negative values become zero."""
        if not self.warned_of_negative:
            warnings.warn(
                f'{self.name} met negative values in training, and none on the calibration images: they become zero '
                f'and get no gradient. Calibrate on more images (num_images of mmacs.QuantizationHook), or set '
                f'signed=True for this activation in the recipe',
                RuntimeWarning,
                stacklevel=2,
            )
        self.warned_of_negative = True

    def refuse_nonfinite(self) -> None:
        """Raise the error for NaN or Inf."""
        own = [name for name, learned in self.named_parameters(recurse=False) if not learned.isfinite().all()]
        what = f'learned NaN or Inf as its {" and ".join(own)}' if own else 'met NaN or Inf'
        raise MmacsError(
            f'{self.name} {what}: the run has diverged{"" if own else " before this layer"}; lower the learning rate, '
            f'or clip gradients'
        )

    # ---------------------------------------------------------------- calibration
    @torch.compiler.disable
    def _observe(self, x: Tensor, level: int) -> None:
        x = x.detach().float()
        if not torch.isfinite(x).all():
            raise MmacsError(f'{self.name} met NaN or Inf while calibrating')
        negative = bool((x < 0).any())
        at_each_width(self, lambda: self._observed[level].append((self.statistic(x), negative)))

    def start_observing(self) -> None:
        """Pass tensors through unchanged from now on and collect their statistics."""
        self.forget_observations()
        self.observing = True

    def forget_observations(self) -> None:
        """Leave observing without setting any range."""
        self.observing = False
        self._observed = [[] for _ in range(self.num_levels)]

    @torch.no_grad()
    def finish_observing(self) -> None:
        """Set the range of every level that was seen and quantize from now on."""
        for level, observed in enumerate(self._observed):
            if not observed:
                continue
            self.signed[level] = self.zero_of(any(negative for _, negative in observed))
            self._flags_cache = None  # the bounds below depend on it
            self.set_range(self.combined([found for found, _ in observed]), level, *self.bounds(level))
            self.initialized[level] = 1
        self.read_flags()
        self.forget_observations()

    def zero_of(self, has_negative: bool) -> int:
        """Where a grid has its zero, for data with or without negative values."""
        if self._signed_by_user is not None:
            return SYMMETRIC if self._signed_by_user else UNSIGNED
        if not has_negative:
            return UNSIGNED
        one_range = self.kind == 'activation' and self.num_channels == 1
        return ASYMMETRIC if self.asymmetric and one_range and self.bits > 1 else SYMMETRIC

    @torch.compiler.disable
    def _initialize_from(self, x: Tensor, level: int) -> None:
        """Take the range from the first training batch, as LSQ does; anything else is a mistake to be told about."""
        if not self.training or world_size() > 1:
            raise MmacsError(
                f'{self.name} was never calibrated: call mmacs.quantization.calibrate(model, batches), '
                f'add the hook mmacs.QuantizationHook, or load a checkpoint of a quantized model'
            )
        self._observe(x, level)
        # the ranges of other levels, which this forward has used, stay what they are
        with torch.autograd._unsafe_preserve_version_counter((*self.parameters(), *self.buffers())):
            at_each_width(self, self.finish_observing)

    # ---------------------------------------------------------------- state
    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> 'Quantizer':
        self._flags_cache = None
        self.met_nonfinite = torch.zeros_like(fn(self.met_nonfinite))
        self.met_negative = torch.zeros_like(fn(self.met_negative))
        return super()._apply(fn, *args, **kwargs)

    def _load_from_state_dict(self, state_dict, prefix, *args: Any) -> None:
        """Load; a full-precision checkpoint, which has nothing for this quantizer, is no mistake.

        Raises:
            MmacsError: If the state is that of another quantizer, bit-width or granularity.
        """
        given = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
        if not given:
            return
        own = {key.removeprefix(prefix): value for key, value in self.state_dict(prefix=prefix).items()}
        if before_0_2(own, given):
            given['zero_point'] = state_dict[f'{prefix}zero_point'] = torch.zeros_like(own['zero_point'])
        require_own_state(self.name, type(self).__name__, own, given)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._flags_cache = None

    def extra_repr(self) -> str:
        """Returns the bit-width and number of ranges, for ``print(model)``."""
        return f'bits={self.bits}, ranges={self.num_ranges}'
