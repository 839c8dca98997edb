"""From a config and a checkpoint to a file that is proven, measured and reported."""

import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import Tensor

from mmacs.cli.quantized_run import calibrate_runner, load_quantized
from mmacs.cli.surroundings import surroundings
from mmacs.deploy.benchmark import benchmark, float_content
from mmacs.deploy.export import Exported, exported, warn_of_pictures, write_file
from mmacs.deploy.exportable import files_of, require_free
from mmacs.deploy.exported_model import ExportedModel
from mmacs.deploy.preprocessing import in_one_batch
from mmacs.deploy.proof.prove import prove
from mmacs.deploy.proof.report import float_size, machine, report_files, says_nothing, write_report
from mmacs.deploy.runtimes import BACKENDS, TITLES
from mmacs.evaluation.validation import Validation
from mmacs.hooks.run import unwrapped
from mmacs.quantization import set_bits
from mmacs.utils.errors import MmacsError
from mmacs.utils.files import require_new
from mmacs.utils.progress import phase

BAR = 0.005  # of the metric, as a share, that a file may lie from the simulation
ENOUGH_IMAGES = 500  # of fewer, of which one detection moves the metric, the bar is wider as chance is


def export_run(
    cfg: Config,
    checkpoint: str,
    out: Path,
    *,
    bits: Optional[int] = None,
    calibrate: bool = False,
    images: int = 8,
    evaluate: bool = False,
    measure_speed: bool = False,
    force: bool = False,
    **settings: Any,
) -> Dict[str, Any]:
    """Export a trained model, prove the file, and write it with its report.

    Args:
        cfg (Config): Its config.
        checkpoint (str): Its checkpoint.
        out (Path): The file.
        bits (int, optional): Of a model with several bit-widths, the one to export; the widest by default.
        calibrate (bool): Whether quantizers without a range are calibrated on training images. Defaults to False.
        images (int): Test images of the proof. Defaults to 8.
        evaluate (bool): Whether the metric is measured on all test images. Defaults to False.
        measure_speed (bool): Whether speeds are measured beside float32 and torch. Defaults to False.
        force (bool): Whether a file that is there is replaced. Defaults to False.
        **settings: Of :func:`mmacs.deploy.export.exported`.

    Returns:
        dict: The report. ``failures`` names the bars that are not reached; the file is written if there are none, and
        ``written`` lists what was.

    Raises:
        MmacsError: If the model can't be exported, or a file can't be written.
    """
    require_free(out, force, settings.get('format', 'qcdq'))
    for each in report_files(out):
        require_new(each, force)
    with surroundings(cfg.work_dir), phase('export') as under_way:

        def stage(name: str) -> Callable[[str], None]:
            under_way.say(name)
            return lambda what: under_way.say(f'{name}, {what}')

        under_way.say('model')
        runner = load_trained(cfg, checkpoint)
        model = unwrapped(runner)
        if calibrate:
            under_way.say('calibration')
            calibrate_runner(runner)
        if bits is not None:
            set_bits(model, bits)
        model.dataset_meta = {**(getattr(model, 'dataset_meta', None) or {}), **runner.val_dataloader.dataset.metainfo}
        result = exported(model, config=cfg, advance=under_way.say, **settings)
        warn_of_pictures(result, out)
        pictures = images_of(runner, result, images)
        about = {**machine(), 'config': str(cfg.filename), 'checkpoint': str(checkpoint)}
        report = {'file': str(out), 'about': about}
        proof = prove(result.model, result.reference, result.simulation, pictures, advance=stage('proof'))
        report.update(proof.plain())
        sizes = report['sizes']
        sizes['file'], sizes['float32'] = result.model.ByteSize(), float_size(result.model)
        if evaluate:
            report['evaluation'] = evaluation(runner, result, stage('evaluation'))
            report['failures'] += metric_failures(report['evaluation'])
            report['warnings'] += metric_warnings(report['evaluation'])
        for warning in report['warnings']:
            runner.logger.warning(f'{out}: {warning}')
        if measure_speed and not report['failures']:
            shape = list(pictures[0].shape)
            floats = float_content(result, shape[2:])
            content = result.model.SerializeToString()
            report['benchmark'] = benchmark(content, floats, result.simulation, shape, advance=stage('speed'))
            sizes['float32'] = len(floats)
        report['passed'], report['written'] = not report['failures'], []
        if report['passed']:
            write_file(result, out, force)
            files = files_of(out)
            sizes['file'] = sum(each.stat().st_size for each in files)
            report['written'] = [str(each) for each in (*files, *report_files(out))]
            write_report(report, out)
    return report


def metric_failures(found: Dict[str, Any]) -> List[str]:
    """Returns in words which runtimes' metrics lie too far from the simulation's, in what :func:`evaluation` gives."""
    name, wanted = found['metric'], f'{found["simulation"]:.4f} in the simulation, and may differ by {found["bar"]:.3g}'
    return [
        f'{name} of {TITLES[row["of"]]} is {row["value"]:.4f}; it is {wanted}'
        for row in found['rows']
        if not row['passed']
    ]


def metric_warnings(found: Dict[str, Any]) -> List[str]:
    """Returns in words that equal metrics say nothing, where :func:`evaluation` found none above zero."""
    if not says_nothing(found):
        return []
    return [
        f'{found["metric"]} says nothing about the file: in the simulation it is {found["simulation"]:.4f} on '
        f'{found["images"]} images, as of a model that finds nothing right; is the checkpoint trained, and on these '
        f'classes?'
    ]


def require_passed(report: Dict[str, Any]) -> None:
    """Raise an :class:`MmacsError` that names the bars which an exported file does not reach, if there are any."""
    if report['failures']:
        raise MmacsError(
            f'{report["file"]} is not written, since it is not what was trained: {"; ".join(report["failures"])}'
        )


def load_trained(cfg: Config, checkpoint: str) -> Runner:
    """Build a runner whose model has loaded its trained checkpoint, and whose validation is on the test data.

    Raises:
        MmacsError: If there is no test data, or the checkpoint doesn't fit.
    """
    for part in ('dataloader', 'evaluator', 'cfg'):
        if cfg.get(f'test_{part}') is not None:
            cfg[f'val_{part}'] = {'type': 'ValLoop'} if part == 'cfg' else cfg[f'test_{part}']
    if cfg.get('val_dataloader') is None:
        raise MmacsError('the config has no test_dataloader, whose images the file is proven on')
    return load_quantized(cfg, checkpoint)


def images_of(runner: Runner, result: Exported, count: int) -> List[Tensor]:
    """Returns test images as the file takes them, one per batch, spread evenly over the data.

    Args:
        runner (Runner): Of :func:`load_trained`.
        result (Exported): What is exported.
        count (int): Number of images, at most all.

    Raises:
        MmacsError: If the number is below one, or an image does not fit into the file.
    """
    validation = Validation(runner, count)
    shape = [one.dim_value or None for one in result.model.graph.input[0].type.tensor_type.shape.dim]
    pad = result.metadata.preprocessing.pad
    inputs = (validation.loader.dataset[index]['inputs'] for index in validation.indices)
    return [torch.from_numpy(in_one_batch([image.numpy()], pad, shape)) for image in inputs]


def evaluation(runner: Runner, result: Exported, advance: Optional[Callable[[str], None]] = None) -> Dict[str, Any]:
    """Measure the config's metric with the simulation and with the file in each runtime, on all test images.

    Args:
        runner (Runner): Of :func:`load_trained`.
        result (Exported): What is exported.
        advance (Callable, optional): Called with what is measured next.

    Returns:
        dict: ``metric``, ``images``, ``simulation``, ``bar`` and ``rows``: ``of`` (the runtime), ``value``, ``passed``.
    """
    say = advance or (lambda what: None)
    validation = Validation(runner, len(runner.val_dataloader.dataset))
    say('simulation')
    simulation = validation.score()
    bar = BAR * max(1, ENOUGH_IMAGES / validation.num_images) ** 0.5
    bar *= 100 if simulation > 1 else 1  # MMPreTrain's accuracies are in percent
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'model.onnx'
        file.write_bytes(result.model.SerializeToString())
        for backend in BACKENDS:
            say(backend)
            validation.model = ExportedModel(str(file), backend)
            value = validation.score()
            rows.append({'of': backend, 'value': value, 'passed': abs(value - simulation) <= bar})
    return {
        'metric': validation.metric,
        'images': validation.num_images,
        'simulation': simulation,
        'bar': bar,
        'rows': rows,
    }
