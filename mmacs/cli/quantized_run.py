"""A quantized model to measure: built from its config, loaded, calibrated as in training."""

import hashlib
import json
from typing import Any, Dict, Optional

from mmengine.config import Config
from mmengine.runner import Runner

from mmacs.cli.runs import build_runner, require_one_process
from mmacs.datasets.data_paths import check_data
from mmacs.evaluation.validation import quiet
from mmacs.hooks.quantization_hook import quantization_hook
from mmacs.hooks.run import unwrapped
from mmacs.quantization import quantizers
from mmacs.teacher.model import fingerprint, full_precision_weights
from mmacs.utils.errors import MmacsError
from mmacs.version import __version__


def load_quantized(cfg: Config, checkpoint: Optional[str]) -> Runner:
    """Build a runner whose model has loaded a checkpoint; nothing but warnings is logged.

    Args:
        cfg (Config): Config of a quantized model; changed in place.
        checkpoint (str, optional): The checkpoint, in full precision or quantized; by default the config's load_from.

    Raises:
        MmacsError: If there is no checkpoint, it doesn't fit, nothing of the model is quantized, or several
            processes are launched.
    """
    require_one_process(cfg)
    cfg.load_from, cfg.resume, cfg.log_level = checkpoint or cfg.get('load_from'), False, 'WARNING'
    if cfg.load_from is None:
        raise MmacsError('name a checkpoint: the config has no load_from')
    runner = build_runner(cfg, ['val_dataloader'])
    if next(quantizers(unwrapped(runner)), None) is None:
        raise MmacsError(
            "nothing of this model is quantized: give the config model=dict(type='mmacs.QuantizedModel', ...) with a "
            'recipe'
        )
    runner.load_or_resume()
    return runner


def calibrate_runner(runner: Runner) -> None:
    """Calibrate quantizers without a range on training images, as :class:`mmacs.QuantizationHook` of the run does.

    Raises:
        MmacsError: If training data is missing.
    """
    check_data(runner.cfg, ['train_dataloader'])
    with quiet():
        quantization_hook(runner).calibrate(runner)


def conditions(runner: Runner, num_images: int) -> Dict[str, Any]:
    """Returns what measurements on validation images depend on, as values that JSON can hold.

    Args:
        runner (Runner): The run, whose model has its checkpoint and is as its config says.
        num_images (int): Number of validation images.

    Returns:
        dict: Fingerprints of the config (model, data, metric, calibration) and of the full-precision weights, number
        of images.
    """
    parts = [runner.cfg.get(name) for name in ('model', 'train_dataloader', 'val_dataloader', 'val_evaluator')]
    hook = quantization_hook(runner)
    parts += [hook.num_images, hook.batch_size, unwrapped(runner).recipe, __version__]  # with its defaults
    text = json.dumps(parts, sort_keys=True, default=str)
    return {
        'config': hashlib.sha256(text.encode()).hexdigest()[:16],
        'checkpoint': fingerprint(full_precision_weights(unwrapped(runner))),
        'images': num_images,
    }
