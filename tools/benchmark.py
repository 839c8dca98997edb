"""Measure what quantization costs: ``python tools/benchmark.py``.

Time and memory of a training step, time of inference and of converting a model, against the same model in full
precision and against other implementations of the same fake-quant. The clock is that of :mod:`mmacs.utils.timing`.
"""

import argparse
import copy
import math
import time
from importlib.util import find_spec
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn

from mmacs import cli
from mmacs.utils.timing import Spread, environment, ratios, take_turns, verdict

CONFIG = 'configs/retinanet_r18_w4a4_acs.py'
MODELS = (
    'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
    'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    'mmdet::atss/atss_r50_fpn_1x_coco.py',
    'mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py',
    'mmdet::detr/detr_r50_8xb2-150e_coco.py',
)
FULL_PRECISION, OURS, FROZEN = 'full precision', 'mmacs', 'mmacs, frozen weights'

# What we promise, checked against the medians: ratios to full precision, and seconds.
STEP_BAR, MEMORY_BAR, INFERENCE_BAR, CONVERSION_BAR = 1.15, 1.05, 1.05, 2.0

BuildQuantizer = Callable[[Tensor, int, int], nn.Module]


# ------------------------------------------------------------------------------------------------ measuring
def storage_bytes(tensors: Iterable[Optional[Tensor]]) -> int:
    """Bytes that tensors occupy; storages that they share count once."""
    storages = [tensor.untyped_storage() for tensor in tensors if tensor is not None]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def peak_growth(deltas: Iterable[int]) -> int:
    """Highest running sum of allocations (positive) and frees (negative) in bytes, at least 0."""
    held = peak = 0
    for delta in deltas:
        held += delta
        peak = max(peak, held)
    return peak


def peak_bytes(step: Callable[[], Any], state: Callable[[], Iterable[Optional[Tensor]]], device: torch.device) -> int:
    """Peak memory of the tensors of one step.

    Args:
        step (Callable): Runs one step.
        state (Callable): The tensors that live before the step and stay: parameters, buffers, the optimizer's, inputs.
        device (torch.device): On CUDA the peak is the caching allocator's, above what other models hold. On a CPU it is
            that of the allocations and frees which the profiler sees in the step. Both count every tensor, temporary
            ones too, and neither counts workspaces that libraries allocate by themselves.

    Returns:
        int: Bytes of ``state`` and of the peak above it.
    """
    held = storage_bytes(state())
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return held + torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == '[memory]']
    return held + peak_growth(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))


# ------------------------------------------------------------------------------------------------ other fake-quants
class WrittenOutLSQ(nn.Module):
    """LSQ in elementwise operations, with autograd cut by ``detach``, as published code commonly has it.

    Args:
        step (Tensor): Initial step sizes, shape (1,) or (number of channels,).
        q_min (int): Lowest level.
        q_max (int): Highest level.
    """

    def __init__(self, step: Tensor, q_min: int, q_max: int) -> None:
        super().__init__()
        self.step = nn.Parameter(step.clone())
        self.q_min, self.q_max = q_min, q_max

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize; equations 1 to 3 and 5 of Esser et al. 2020."""
        scale = 1 / math.sqrt(x.numel() / self.step.numel() * self.q_max)
        scaled = self.step * scale
        step = (self.step - scaled).detach() + scaled  # the step's value, with a gradient times `scale`
        if step.numel() > 1:
            step = step.reshape(-1, *[1] * (x.dim() - 1))
        clipped = torch.clamp(x / step, self.q_min, self.q_max)
        return ((clipped.round() - clipped).detach() + clipped) * step


def torch_learnable(step: Tensor, q_min: int, q_max: int) -> nn.Module:
    """The learnable fake-quant of ``torch.ao``, symmetric, with its gradient scaling."""
    from torch.ao.quantization import MovingAverageMinMaxObserver, MovingAveragePerChannelMinMaxObserver
    from torch.ao.quantization._learnable_fake_quantize import _LearnableFakeQuantize

    per_channel = step.numel() > 1
    quantizer = _LearnableFakeQuantize(
        MovingAveragePerChannelMinMaxObserver if per_channel else MovingAverageMinMaxObserver,
        q_min,
        q_max,
        channel_len=step.numel() if per_channel else -1,
        use_grad_scaling=True,
        dtype=torch.qint32,  # bounds the levels alone: those about a zero point are in no type of 8 bits
        qscheme=torch.per_channel_symmetric if per_channel else torch.per_tensor_symmetric,
    ).to(step.device)
    quantizer.scale.data.copy_(step)
    return quantizer.enable_param_learning()


class Brevitas(nn.Module):
    """Brevitas' integer quantizer with a learned scale, without the tensor class that it is usually wrapped in.

    Args:
        step (Tensor): Initial step sizes, shape (1,) or (number of channels,).
        q_min (int): Lowest level.
        q_max (int): Highest level.
    """

    def __init__(self, step: Tensor, q_min: int, q_max: int) -> None:
        super().__init__()
        from brevitas.core.bit_width import BitWidthConst
        from brevitas.core.function_wrapper import Identity, TensorClamp
        from brevitas.core.quant import IntQuant, RescalingIntQuant
        from brevitas.core.scaling import IntScaling, ParameterScaling
        from brevitas.core.zero_point import ZeroZeroPoint

        signed = q_min < 0
        # its scale is a threshold divided by the number of levels on the longer side
        threshold = step * (-q_min if signed else q_max)
        shape = (-1, 1, 1, 1) if step.numel() > 1 else ()  # steps per channel are those of convolutions' weights
        self.quantizer = RescalingIntQuant(
            IntQuant(narrow_range=False, signed=signed, input_view_impl=Identity(), tensor_clamp_impl=TensorClamp()),
            ParameterScaling(threshold.reshape(shape)),
            IntScaling(signed=signed, narrow_range=False),
            ZeroZeroPoint(),
            BitWidthConst((q_max - q_min).bit_length()),
        ).to(step.device)

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize."""
        return self.quantizer(x)[0]


class Turns(nn.Module):
    """A quantizer per pyramid level, taken in turns from call to call."""

    def __init__(self, levels: Iterable[nn.Module]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize with the quantizer whose turn it is."""
        level, self.calls = self.calls % len(self.levels), self.calls + 1
        return self.levels[level](x)


OTHERS: Dict[str, BuildQuantizer] = {
    'LSQ written out': WrittenOutLSQ,
    'torch.ao learnable': torch_learnable,
    'brevitas': Brevitas,
}


def swap_quantizers(model: nn.Module, build: BuildQuantizer) -> nn.Module:
    """Replace the quantizers of a calibrated model by others with the same steps and levels, in place.

    Raises:
        MmacsError: If a quantizer has an offset, or levels that are not evenly spaced, which the others have not.
    """
    from mmacs.quantization import quantizers
    from mmacs.utils.errors import MmacsError

    for name, quantizer in list(quantizers(model)):
        parent, _, attribute = name.rpartition('.')
        grids = [quantizer.grid(level) for level in range(quantizer.num_levels)]
        if any(grid.offset is not None for grid in grids):
            raise MmacsError(f'{name} has an offset, which other implementations lack: choose a config without offsets')
        levels = [build(grid.step.detach(), grid.q_min, grid.q_max) for grid in grids]
        setattr(model.get_submodule(parent), attribute, levels[0] if len(levels) == 1 else Turns(levels))
    return model


# ------------------------------------------------------------------------------------------------ what is measured
class Training:
    """A model with its optimizer and a batch.

    Args:
        model (nn.Module): A detector.
        batch (dict): What its data preprocessor returned.
        bfloat16 (bool): Whether the forward runs under autocast to bfloat16.
        channels_last (bool): Whether model and images are brought into that layout.
    """

    def __init__(
        self, model: nn.Module, batch: Dict[str, Any], bfloat16: bool = False, channels_last: bool = False
    ) -> None:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.train().to(memory_format=layout)
        self.batch = {**batch, 'inputs': batch['inputs'].contiguous(memory_format=layout)}
        self.bfloat16 = bfloat16
        # a rate at which random images don't drive the model anywhere in some steps
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9, weight_decay=1e-4)

    def step(self) -> None:
        """One step: forward with its loss, backward, update."""
        self.optimizer.zero_grad()
        with torch.autocast(self.batch['inputs'].device.type, torch.bfloat16, self.bfloat16):
            loss, _ = self.model.parse_losses(self.model(**self.batch, mode='loss'))
        loss.backward()
        self.optimizer.step()

    def peak_bytes(self, device: torch.device) -> int:
        """Peak memory of a step, with the gradients that it makes."""
        self.optimizer.zero_grad()
        return peak_bytes(self.step, self._state, device)

    def _state(self) -> Iterable[Optional[Tensor]]:
        moments = (entry.get('momentum_buffer') for entry in self.optimizer.state.values())
        return [*self.model.parameters(), *self.model.buffers(), *moments, self.batch['inputs']]


def build_models(
    config: str, image_size: int, batch_size: int, device: torch.device
) -> Tuple[nn.Module, nn.Module, Dict[str, Any]]:
    """Build the model of a config in full precision and quantized, and a batch of random images with random boxes.

    Returns:
        Tuple[nn.Module, nn.Module, dict]: The model in full precision, the same one quantized and calibrated, a batch.
    """
    from mmdet.testing import demo_mm_inputs
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    from mmacs.models.quantized_model import full_precision_config, is_quantized
    from mmacs.registry import MODELS as BUILDERS
    from mmacs.utils.errors import MmacsError

    cfg = Config.fromfile(config)
    if not is_quantized(cfg.model) or cfg.get('default_scope') != 'mmdet':
        raise MmacsError(f'{config} must have a quantized detector: model=dict(type="mmacs.QuantizedModel", ...)')
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = BUILDERS.build(full_precision_config(cfg.model)).to(device)
    num_classes = getattr(model.bbox_head, 'num_classes', 80)
    inputs = demo_mm_inputs(
        batch_size, [(3, image_size, image_size)] * batch_size, num_items=[8] * batch_size, num_classes=num_classes
    )
    batch = model.data_preprocessor(inputs, True)
    return model, quantized_copy(model, cfg.model.get('recipe', 'w4a4'), batch), batch


def quantized_copy(model: nn.Module, recipe: Union[str, Dict[str, Any]], batch: Dict[str, Any]) -> nn.Module:
    """Returns a copy of a model, quantized by a recipe and calibrated on a batch."""
    from mmacs.quantization import calibrate, quantize_model

    quantized = quantize_model(copy.deepcopy(model), recipe)
    calibrate(quantized, [batch], lambda batch: quantized(**batch, mode='tensor'))
    return quantized


def measure_training(args: argparse.Namespace) -> Tuple[Dict[str, List[float]], Dict[str, int]]:
    """Seconds of each turn and peak bytes of a training step, by implementation."""
    model, quantized, batch = build_models(args.config, args.image_size, args.batch_size, args.device)
    sides = {FULL_PRECISION: Training(model, batch), OURS: Training(quantized, batch)}
    for name, build in OTHERS.items():
        if name != 'brevitas' or find_spec('brevitas'):
            sides[name] = Training(swap_quantizers(copy.deepcopy(quantized), build), batch)
    for recipe in args.recipes:
        sides[f'{OURS}, {recipe}'] = Training(quantized_copy(model, recipe, batch), batch)
    seconds = take_turns({name: side.step for name, side in sides.items()}, args.repeats, args.device)
    return seconds, {name: side.peak_bytes(args.device) for name, side in sides.items()}


def measure_formats(args: argparse.Namespace) -> Iterable[Tuple[str, Dict[str, List[float]], Dict[str, int]]]:
    """Name, seconds of each turn and peak bytes of a training step, for what :func:`measure_training` leaves out."""
    for bfloat16, channels_last in ((False, True), (True, False), (True, True)):
        model, quantized, batch = build_models(args.config, args.image_size, args.batch_size, args.device)
        sides = {FULL_PRECISION: model, OURS: quantized}
        sides = {name: Training(side, batch, bfloat16, channels_last) for name, side in sides.items()}
        seconds = take_turns({name: side.step for name, side in sides.items()}, min(args.repeats, 3), args.device)
        name = f'{"bfloat16" if bfloat16 else "float32"}{", channels_last" if channels_last else ""}'
        yield name, seconds, {name: side.peak_bytes(args.device) for name, side in sides.items()}


@torch.no_grad()
def measure_inference(args: argparse.Namespace) -> Dict[str, List[float]]:
    """Seconds of each turn of a forward in eval mode without postprocessing."""
    from mmacs.quantization.freeze import freeze

    model, quantized, batch = build_models(args.config, args.image_size, args.batch_size, args.device)
    sides = {FULL_PRECISION: model.eval(), OURS: quantized.eval(), FROZEN: freeze(copy.deepcopy(quantized))}
    runs = {name: (lambda side=side: side(**batch, mode='tensor')) for name, side in sides.items()}
    return take_turns(runs, args.repeats, args.device)


def measure_conversion(names: Iterable[str], repeats: int) -> Dict[str, Spread]:
    """Seconds that ``quantize_model`` takes, by config; ``mmdet::...`` are MMDetection's own."""
    from mmengine.config import Config
    from mmengine.hub import get_config
    from mmengine.registry import init_default_scope

    from mmacs.models.quantized_model import full_precision_config
    from mmacs.quantization import quantize_model
    from mmacs.registry import MODELS as BUILDERS

    init_default_scope('mmdet')
    seconds = {}
    for name in names:
        cfg = (get_config(name) if '::' in name else Config.fromfile(name)).model
        cfg = full_precision_config(cfg)
        seconds[name] = Spread.of([_timed(quantize_model, BUILDERS.build(copy.deepcopy(cfg))) for _ in range(repeats)])
    return seconds


def _timed(function: Callable[[Any], Any], argument: Any) -> float:
    start = time.perf_counter()
    function(argument)
    return time.perf_counter() - start


# ------------------------------------------------------------------------------------------------ report
def main() -> None:
    """Parse the options, measure, print."""
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description='Measure what quantization costs against full precision')
    parser.add_argument('--config', default=CONFIG, help='a config with a quantized detector')
    parser.add_argument('--image-size', type=int, default=320, help='height and width of the images in pixels')
    parser.add_argument('--batch-size', type=int, default=2)
    parser.add_argument('--repeats', type=int, default=7, help='number of turns, after one to warm up')
    parser.add_argument('--device', type=torch.device, default='cpu', help='cpu or cuda')
    parser.add_argument(
        '--recipes', nargs='*', default=(), help="further recipes to train with: presets' names or JSON files"
    )
    parser.add_argument('--models', nargs='*', default=MODELS, help='configs of which the conversion is timed')
    args = parser.parse_args()

    def add_rows(what: str, seconds: Mapping[str, Sequence[float]], bars: Mapping[str, float]) -> None:
        for name, ratio in ratios(seconds, FULL_PRECISION).items():
            bar = verdict(ratio.median, bars[name]) if name in bars else ''
            spread = Spread.of(seconds[name])
            table.add_row(what, name, *_cells(spread, '.3f'), *_cells(ratio, '.2f'), bar)
        table.add_section()

    def add_peaks(what: str, peaks: Mapping[str, int]) -> None:
        for name, peak in peaks.items():
            ratio = peak / peaks[FULL_PRECISION]
            bar = verdict(ratio, MEMORY_BAR) if name == OURS else ''
            table.add_row(what, name, f'{peak / 1e6:.1f}', '', f'{ratio:.2f}', '', bar)
        table.add_section()

    table = Table('what', 'implementation', 'median', 'min to max', 'ratio', 'min to max', 'bar')
    seconds, peaks = measure_training(args)
    add_rows('training step, s', seconds, {OURS: STEP_BAR})
    add_peaks('peak memory, MB', peaks)
    for form, form_seconds, form_peaks in measure_formats(args):
        add_rows(f'training step, s; {form}', form_seconds, {})
        add_peaks(f'peak memory, MB; {form}', form_peaks)
    add_rows('inference, s', measure_inference(args), {FROZEN: INFERENCE_BAR})
    for name, spread in measure_conversion((args.config, *args.models), 3).items():
        table.add_row('conversion, s', name, *_cells(spread, '.3f'), '', '', verdict(spread.median, CONVERSION_BAR))
    console = Console(width=max(Console().width, 140))
    console.print(table)
    if 'brevitas' not in seconds:
        console.print('brevitas is not installed, and not measured: pip install brevitas')
    console.print(
        f'{args.config}, {args.batch_size} images of {args.image_size}x{args.image_size}, {args.repeats} turns'
    )
    console.print(
        'Memory: parameters, gradients, momentum, buffers, inputs and the peak of all tensors that live during a step.'
    )
    console.print(environment(args.device))


def _cells(spread: Spread, digits: str) -> Tuple[str, str]:
    return f'{spread.median:{digits}}', f'{spread.low:{digits}} to {spread.high:{digits}}'


if __name__ == '__main__':
    cli.run(main)
