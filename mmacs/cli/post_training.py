"""From a full-precision checkpoint to a quantized one, without training."""

import io
import time
from pathlib import Path
from typing import Dict, List, NamedTuple

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

from mmacs.cli.quantized_run import calibrate_runner, load_quantized
from mmacs.cli.surroundings import surroundings
from mmacs.evaluation.validation import Validation
from mmacs.hooks.quantization_hook import STATE_KEY, quantization_hook
from mmacs.hooks.run import unwrapped
from mmacs.quantization import Specification, disabled, quantizers
from mmacs.quantization.post_training import follow_paths, layers_to_follow
from mmacs.quantization.quantizers import LSQ
from mmacs.quantization.switchable import bit_widths
from mmacs.teacher.side_effects import without_side_effects
from mmacs.utils.errors import MmacsError
from mmacs.utils.files import write_whole
from mmacs.utils.progress import phase


class PostTraining(NamedTuple):
    """What came of it.

    Attributes:
        metric (str): Name of the metric; empty if nothing was evaluated.
        scores (Dict[str, float]): The metric by what it is of, in the order in which it was measured.
        left (List[str]): Layers whose weights ``gpfq`` had to leave at the nearest level.
        seconds (float): Of calibration and rounding.
    """

    metric: str
    scores: Dict[str, float]
    left: List[str]
    seconds: float


def quantize_after_training(
    cfg: Config, checkpoint: str, out: Path, method: str = 'gpfq', images: int = 64, evaluate: bool = False
) -> PostTraining:
    """Calibrate a trained model, round its weights, and write the quantized checkpoint.

    Args:
        cfg (Config): Config of the quantized model; changed in place.
        checkpoint (str): The full-precision checkpoint.
        out (Path): The checkpoint to write; one that is there is replaced.
        method (str): ``'minmax'``, ``'mse'`` or ``'gpfq'``, see ``mmacs post-training --help``.
        images (int): Training images that ``gpfq`` runs for each layer.
        evaluate (bool): Whether the metric is measured on all validation images, before and after.

    Raises:
        MmacsError: If the checkpoint is quantized already or doesn't fit, or the method not the recipe.
    """
    with surroundings(cfg.work_dir):
        runner = load_quantized(cfg, checkpoint)
        model, metric, scores = unwrapped(runner), '', {}
        if any(quantizer.is_initialized() for _, quantizer in quantizers(model)):
            raise MmacsError(f'{checkpoint} is quantized already: name the full-precision checkpoint')
        if method == 'gpfq' and bit_widths(model):
            raise MmacsError(
                f'gpfq rounds weights for one bit-width, and the recipe has {list(bit_widths(model))}: leave out '
                f'bit_widths, or take --method mse'
            )
        _start_ranges_at(model, 'minmax' if method == 'minmax' else 'mse')
        validation = Validation(runner, len(runner.val_dataloader.dataset)) if evaluate else None
        if evaluate:
            with disabled(model):
                scores['in full precision'] = validation.score()
            metric = validation.metric
        began = time.perf_counter()
        calibrate_runner(runner)
        seconds, left = time.perf_counter() - began, []
        if method == 'gpfq':
            if evaluate:
                scores['rounded to the nearest level'] = validation.score()
            began = time.perf_counter()
            left = _follow_paths(runner, model, images)
            seconds += time.perf_counter() - began
        if evaluate:
            scores[f'after {method}'] = validation.score()
        _write(runner, model, out)
    return PostTraining(metric, scores, left, seconds)


def _start_ranges_at(model: nn.Module, init: str) -> None:
    for name, quantizer in quantizers(model):
        if isinstance(quantizer, LSQ) and init in quantizer.inits:
            quantizer.init = init
        elif init == 'minmax':
            raise MmacsError(
                f'--method minmax says where the ranges of LSQ start, and {name} is {type(quantizer).__name__}, which '
                f'has a start of its own: take --method mse'
            )


def _follow_paths(runner: Runner, model: nn.Module, images: int) -> List[str]:
    """Rounds weights by GPFQ; returns the names of quantized weights that it left."""
    layers = layers_to_follow(model)
    batches = quantization_hook(runner).calibration_batches(runner, images)
    done = set()
    with without_side_effects(model), phase('rounding by GPFQ', len(layers), 'layers') as under_way:
        followed = follow_paths(model, layers, batches, lambda model, data: model(**data, mode='predict'))
        for name in under_way.each(followed):
            done.add(name)
    weights = [name.removesuffix('.weight_quantizer') for name, _ in quantizers(model) if 'weight_quantizer' in name]
    return [name for name in weights if name not in done]


def _write(runner: Runner, model: nn.Module, out: Path) -> None:
    content = io.BytesIO()
    meta = {'cfg': runner.cfg.pretty_text, 'dataset_meta': runner.val_dataloader.dataset.metainfo}
    weights = {name: value.cpu() for name, value in model.state_dict().items()}
    torch.save({'meta': meta, 'state_dict': weights, STATE_KEY: Specification.of(model).state()}, content)
    write_whole(out, content.getvalue())
