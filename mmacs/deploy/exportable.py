"""What can't be exported, each in one sentence."""

import os
from pathlib import Path
from typing import Dict, Tuple

from torch import nn

from mmacs.deploy.forms import FORMATS, SUFFIXES, TARGETS
from mmacs.deploy.integers import MAX_BITS
from mmacs.deploy.packages import require
from mmacs.quantization import quantizers
from mmacs.quantization.layers import QuantizedLayer
from mmacs.quantization.quantizers import CoarseFine
from mmacs.utils.checks import require_known, require_switch, require_whole
from mmacs.utils.errors import MmacsError, shortened
from mmacs.utils.files import require_new

LARGEST_SIDE = 16384  # pixels
OLDEST: Dict[str, Tuple[int, ...]] = {'torch': (2, 9), 'onnx': (1, 19), 'onnxscript': (0, 7), 'onnx_ir': (0, 1, 10)}


def require_packages() -> None:
    """Require what writes files.

    Raises:
        MmacsError: If a package is missing or too old.
    """
    for name, oldest in OLDEST.items():
        version = require(name).__version__
        found = tuple(int(part) for part in version.split('+')[0].split('.')[:3] if part.isdigit())
        if found < oldest:
            wanted = '.'.join(map(str, oldest))
            raise MmacsError(
                f'{name} {version} is too old to export models: {name} >= {wanted} is needed, and mmacs is tested with '
                f'what its extras deploy and onedl bring'
            )


def require_free(file: os.PathLike, force: bool, format: str = 'qcdq') -> None:
    """Require a place for a file.

    Raises:
        MmacsError: If it has another suffix than those that are written in a format, or exists.
    """
    path = Path(file)
    if path.suffix not in SUFFIXES:
        raise MmacsError(
            f'{path} must end in .onnx, or in .xml for OpenVINO: it is the suffix that says what is written'
        )
    if path.suffix == '.xml' and format == 'qonnx':
        raise MmacsError(f'{path} must end in .onnx: OpenVINO, which .xml is for, does not read the format qonnx')
    for each in files_of(path):
        require_new(each, force)


def files_of(path: Path) -> Tuple[Path, ...]:
    """Returns the files that are written for a path: OpenVINO has weights in one of their own."""
    return (path, path.with_suffix('.bin')) if path.suffix == '.xml' else (path,)


def require_settings(
    *,
    shape: object,
    fixed_shape: object,
    raw: object,
    format: object,
    target: object,
    max_detections: object,
    score_threshold: object,
    class_agnostic: object,
    round_offsets: object,
) -> None:
    """Require settings of an export that make sense.

    Raises:
        MmacsError: If one does not.
    """
    require_known('format', format, FORMATS)
    require_known('target', target, TARGETS)
    for name, value in (
        ('fixed_shape', fixed_shape),
        ('raw', raw),
        ('class_agnostic', class_agnostic),
        ('round_offsets', round_offsets),
    ):
        require_switch(name, value)
    if shape is not None:
        if not isinstance(shape, (tuple, list)) or len(shape) != 2:
            raise MmacsError(f'shape must be height and width, as in 320 320, got {shape!r}')
        for name, size in zip(('the height in shape', 'the width in shape'), shape):
            require_whole(name, size, most=LARGEST_SIDE)
    if fixed_shape and shape is None:
        raise MmacsError('fixed_shape needs a shape: height and width, as in 320 320')
    if max_detections is not None:
        require_whole('max_detections', max_detections, most=100_000)
    number = isinstance(score_threshold, (int, float)) and not isinstance(score_threshold, bool)
    if score_threshold is not None and not (number and 0 <= score_threshold < 1):
        raise MmacsError(f'score_threshold must be a number from 0 to below 1, got {score_threshold!r}')
    if format == 'qonnx' and target == 'tensorrt':
        raise MmacsError('format qonnx is for FPGA flows, and TensorRT does not read it: leave out one of the two')


def require_model(model: object) -> None:
    """Require a module.

    Raises:
        MmacsError: If it is something else.
    """
    if not isinstance(model, nn.Module):
        raise MmacsError(f'a quantized model (nn.Module) is needed, got {shortened(model)}')


def require_exportable(model: nn.Module, format: str) -> None:
    """Require a quantized model whose quantizers are ready and have integers of at most 8 bits.

    Raises:
        MmacsError: If it is none, or has layers that no format knows.
    """
    require_model(model)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLayer)}
    kind = type(model).__name__
    if not layers and not any(True for _ in quantizers(model)):
        raise MmacsError(
            f'this {kind} is in full precision: mmacs exports quantized models, so train one by a recipe, or convert '
            f'it by mmacs.quantize_model and mmacs.calibrate'
        )
    for name, layer in layers.items():
        if layer.frozen:
            raise MmacsError(f'{name} was frozen, and its steps are lost: export the model before mmacs.freeze')
    for name, module in model.named_modules():
        if any('DeformConv' in base.__name__ for base in type(module).__mro__):
            raise MmacsError(f'{name} is a deformable convolution, which ONNX runtimes have no integers for')
    ready = False
    for name, quantizer in quantizers(model):
        if not quantizer.enabled:
            raise MmacsError(f'{name} is disabled: export the model outside mmacs.disabled(model)')
        if quantizer.bits > MAX_BITS:
            raise MmacsError(f'{name} has {quantizer.bits} bits, and runtimes compute with at most {MAX_BITS}')
        if isinstance(quantizer, CoarseFine):
            raise MmacsError(
                f'{name} is a CoarseFine, whose weights are sums of two grids, which runtimes have not in one '
                f'convolution: train weights with LSQ'
            )
        if quantizer.kind == 'activation' and not quantizer.uniform:
            raise MmacsError(
                f'{name} is a {type(quantizer).__name__}, whose levels differ from channel to channel, which runtimes '
                f'have not for activations: take LSQ'
            )
        if format == 'qonnx' and not quantizer.uniform:
            raise MmacsError(
                f'{name} is a {type(quantizer).__name__}, whose levels are not evenly spaced, which QONNX has not: '
                f'train weights with LSQ, or export in the format qcdq'
            )
        is_ready = quantizer.is_initialized()
        if quantizer.kind == 'weight' and not is_ready:
            raise _uncalibrated(name)
        ready = ready or is_ready
    if not ready:
        raise _uncalibrated(next(name for name, _ in quantizers(model)))


def _uncalibrated(name: str) -> MmacsError:
    return MmacsError(
        f'{name} was never calibrated: load a checkpoint of the trained quantized model, or calibrate it '
        f'(--calibrate, mmacs.quantization.calibrate)'
    )
