"""Writes a trained quantized model as a file that runtimes execute in integers."""

import copy
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmacs.adapters.mmengine.pixel_settings import pixel_settings
from mmacs.deploy.exportable import require_exportable, require_free, require_packages, require_settings
from mmacs.deploy.metadata import Metadata, write_metadata
from mmacs.deploy.packages import require
from mmacs.deploy.pipeline import Pipeline
from mmacs.deploy.preprocessing import data_of, obstacle, preprocessing_of
from mmacs.deploy.reference import reference_model
from mmacs.utils.errors import MmacsError, reason
from mmacs.utils.files import write_whole

if TYPE_CHECKING:
    from onnx import ModelProto

EXAMPLE_SHAPE = (256, 320)  # height and width of the traced images, where the graph takes any


class Exported(NamedTuple):
    """What is written, and what it is compared with; both modules map raw pixels to the outputs of the file."""

    model: 'ModelProto'
    names: List[str]  # of the outputs
    reference: Pipeline
    simulation: Pipeline
    metadata: Metadata
    example: Tuple[int, int]  # height and width of the images that were traced

    def __repr__(self) -> str:
        """Returns the size and the outputs; all content would be megabytes."""
        return f'Exported({self.model.ByteSize():,} bytes, outputs {", ".join(self.names)})'


def export_model(model: nn.Module, file: os.PathLike, *, force: bool = False, **settings: Any) -> Exported:
    """Write a trained quantized model as a file.

    The file is compared with nothing here: ``mmacs export`` does, and :func:`mmacs.deploy.proof.prove.prove`.

    Args:
        model (nn.Module): A quantized model with its steps; it stays as it is.
        file (PathLike): ``.onnx``, or ``.xml`` for OpenVINO's own format. Written whole or not at all.
        force (bool): Whether a file that is there is replaced. Defaults to False.
        **settings: Of :func:`exported`.

    Returns:
        Exported: The content, and modules that compute the same.

    Raises:
        MmacsError: If the model can't be exported, or the file can't be written.
    """
    require_free(file, force, settings.get('format', 'qcdq'))
    result = exported(model, **settings)
    warn_of_pictures(result, file)
    write_file(result, file, force)
    return result


def warn_of_pictures(result: Exported, file: os.PathLike) -> None:
    """Log what a file cannot be used for, where it does not know how its pictures are prepared.

    Args:
        result (Exported): The content.
        file (PathLike): Where it is to be written.
    """
    why_not = None if result.metadata.task == 'raw' else obstacle(result.metadata.task, result.metadata.preprocessing)
    if why_not is None:
        return
    print_log(
        f'`mmacs infer` will refuse {file}, since {why_not}. The file is right, and works with `mmacs test` and where '
        f'your own code prepares the images. If infer is to work too, export with a config (in Python config=cfg) of '
        f'one test pipeline that does no more than that.',
        'current',
        logging.WARNING,
    )


def exported(
    model: nn.Module,
    *,
    shape: Optional[Sequence[int]] = None,
    fixed_shape: bool = False,
    raw: bool = False,
    format: str = 'qcdq',
    target: str = 'cpu',
    max_detections: Optional[int] = None,
    score_threshold: Optional[float] = None,
    class_agnostic: bool = False,
    round_offsets: bool = False,
    config: Optional[Mapping[str, Any]] = None,
    advance: Optional[Callable[[str], None]] = None,
) -> Exported:
    """Returns what :func:`export_model` writes.

    Args:
        model (nn.Module): A quantized model with its steps, on any device; it stays as it is. One of another dtype is
            written in float32.
        shape (Sequence[int], optional): Height and width of the images; an example, unless ``fixed_shape``. None takes
            an example of its own.
        fixed_shape (bool): Whether the file takes one image of this shape. Otherwise it takes batches of any shape that
            the model takes. Defaults to False.
        raw (bool): Whether a detector's file gives what its head predicts rather than boxes, scores and labels.
        format (str): ``'qcdq'``, which runtimes read, or ``'qonnx'``, for FPGA flows. Defaults to ``'qcdq'``.
        target (str): ``'cpu'``, or ``'tensorrt'``, whose integers have zero at 0. Defaults to ``'cpu'``.
        max_detections (int, optional): Rows per image; None for what the model's settings say.
        score_threshold (float, optional): Of detections; None for what the model's settings say.
        class_agnostic (bool): Whether boxes of all classes compete. Defaults to what the model's settings say.
        round_offsets (bool): Whether activations whose offset is no multiple of the step take the nearest one.
        config (Mapping, optional): The model's whole config, which knows how a picture is resized and cropped.
        advance (Callable, optional): Called with what is done next.

    Raises:
        MmacsError: If the model can't be exported.
    """
    require_packages()
    require_settings(
        shape=shape,
        fixed_shape=fixed_shape,
        raw=raw,
        format=format,
        target=target,
        max_detections=max_detections,
        score_threshold=score_threshold,
        class_agnostic=class_agnostic,
        round_offsets=round_offsets,
    )
    require_exportable(model, format)
    say = advance or (lambda what: None)
    say('integers')
    how = {'raw': raw, 'max_detections': max_detections, 'score_threshold': score_threshold}
    how['class_agnostic'] = class_agnostic
    model = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    reference = Pipeline(reference_model(model, target if format == 'qcdq' else format, round_offsets), **how).eval()
    simulation = Pipeline(model, **how).eval()
    size = tuple(shape or EXAMPLE_SHAPE)
    # a batch of one, or a coarse level of one row, would be taken for the one size that there is
    traced = size if fixed_shape else map(max, size, EXAMPLE_SHAPE)
    images = torch.rand(1 if fixed_shape else 2, _channels(model), *traced) * 255
    say('graph')
    content = _graph(reference, images, fixed_shape, format, target)
    metadata = _metadata(model, reference.task, config, list(images.shape) if fixed_shape else None, format, target)
    write_metadata(content, metadata)
    return Exported(content, reference.names, reference, simulation, metadata, size)


def write_file(result: Exported, file: os.PathLike, force: bool = False) -> None:
    """Write what :func:`exported` returned.

    Args:
        result (Exported): The content.
        file (PathLike): ``.onnx``, or ``.xml`` for OpenVINO's own format.
        force (bool): Whether a file that is there is replaced. Defaults to False.

    Raises:
        MmacsError: If it exists, or can't be written.
    """
    require_free(file, force)
    if Path(file).suffix == '.xml':
        from mmacs.deploy.openvino_ir import write_ir

        write_ir(result.model, Path(file))
    else:
        write_whole(file, result.model.SerializeToString())


def _graph(pipeline: Pipeline, images: Tensor, fixed: bool, format: str, target: str) -> 'ModelProto':
    """The checked content of the file, without metadata."""
    from mmacs.deploy import graph, qcdq, qonnx  # these import what may be missing

    onnx = require('onnx')
    try:
        model = graph.traced(pipeline, images, fixed)
    except MmacsError:
        raise
    except Exception as error:  # whatever a model's own code does in a trace
        own = _cause(error, MmacsError)
        raise own or MmacsError(
            f'{type(pipeline.outputs).__name__} of this model could not be traced: {reason(_innermost(error))}'
        ) from error
    if format == 'qonnx':
        qonnx.write_qonnx(model)
    else:
        qcdq.write_qcdq(model, tensorrt=target == 'tensorrt')
    graph.cleaned(model)
    content = require('onnx_ir').to_proto(model)
    try:
        onnx.checker.check_model(content, full_check=format != 'qonnx')
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise MmacsError(f'the ONNX checker refuses the graph: {reason(error)}') from error
    return content


def _channels(model: nn.Module) -> int:
    """Number of channels that the first convolution of a model without a preprocessor takes; images have three."""
    if getattr(model, 'data_preprocessor', None) is not None:
        return 3
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    return 3 if first is None else first.in_channels


def _metadata(
    model: nn.Module,
    task: str,
    config: Optional[Mapping[str, Any]],
    shape: Optional[List[int]],
    format: str,
    target: str,
) -> Metadata:
    pipeline, metainfo = data_of(config or {})
    known = {**metainfo, **(getattr(model, 'dataset_meta', None) or {})}
    preprocessor = getattr(model, 'data_preprocessor', None)
    settings = {} if preprocessor is None else pixel_settings(preprocessor)
    return Metadata(
        task=task,
        classes=[str(name) for name in known.get('classes') or known.get('CLASSES') or ()],
        recipe=_plain(getattr(model, 'recipe', {})),
        preprocessing=preprocessing_of(pipeline, settings),
        config=Path(str(getattr(config, 'filename', None) or '')).name,
        input_shape=shape or [None, _channels(model), None, None],
        format=format,
        target=target,
    )


def _plain(value: Any) -> Any:
    """Dicts and lists of configs as such."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    return value


def _cause(error: Optional[BaseException], kind: type) -> Optional[BaseException]:
    """Returns the first exception of a kind among an exception and what it came from."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


def _innermost(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
