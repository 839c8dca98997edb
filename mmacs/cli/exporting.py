"""What ``tools/export.py`` does with a config, a checkpoint and the model's test images."""

import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import Tensor

from mmacs.cli.quantized_run import load_quantized
from mmacs.deploy.export import Exported
from mmacs.deploy.exported_model import ExportedModel
from mmacs.deploy.preprocessing import in_one_batch
from mmacs.deploy.runtimes import BACKENDS
from mmacs.evaluation.validation import Validation
from mmacs.hooks.run import unwrapped
from mmacs.utils.errors import MmacsError

BAR = 0.005  # of the metric, as a share, that a file may lie from the simulation


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
    bar = BAR * (100 if simulation > 1 else 1)  # MMPreTrain's accuracies are in percent
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'model.onnx'
        file.write_bytes(result.model.SerializeToString())
        for backend in BACKENDS:
            say(backend)
            validation.model = ExportedModel(str(file), backend)
            value = validation.score()
            rows.append({'of': backend, 'value': value, 'passed': abs(value - simulation) <= bar})
    validation.model = unwrapped(runner)
    return {
        'metric': validation.metric,
        'images': validation.num_images,
        'simulation': simulation,
        'bar': bar,
        'rows': rows,
    }
