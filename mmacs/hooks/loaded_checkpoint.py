"""Whether a checkpoint fits the model and the run that it is about to be loaded into."""

from fnmatch import fnmatchcase
from typing import Any, Dict, List, Sequence

import torch
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn

from mmacs.hooks.run import resumed_from
from mmacs.quantization import quantizers
from mmacs.quantization.batch_norm import PerLevelBatchNorm2d
from mmacs.quantization.convert import full_precision_state
from mmacs.utils.errors import MmacsError


def refuse_unsound_progress(runner: Runner, checkpoint: Dict[str, Any]) -> None:
    """Require that a checkpoint says where its run stood, if this run is to go on from there.

    That these are whole numbers is required where any checkpoint is read.

    Raises:
        MmacsError: If its epoch or iteration is missing, or it has had more iterations than its epochs have images.
    """
    if not runner._resume:
        return
    meta = checkpoint.get('meta') or {}
    fault = next((f'it has no {name}' for name in ('epoch', 'iter') if meta.get(name) is None), None)
    if fault is None and isinstance(runner._train_loop, EpochBasedTrainLoop):
        loader = runner._train_loop.dataloader
        most = (meta['epoch'] + 1) * max(len(loader), len(loader.dataset))
        if meta['iter'] > most:
            fault = f'its iter is {meta["iter"]} after {meta["epoch"]} epochs of {len(loader.dataset)} images'
    if fault is not None:
        raise MmacsError(
            f'cannot resume from {resumed_from(runner)}: {fault}, so that it is no checkpoint of such a run; start a '
            'new run from its weights with load_from'
        )


def refuse_unsound_steps(model: nn.Module, weights: Dict[str, torch.Tensor]) -> None:
    """Refuse a checkpoint in which a step, or what stands for one, is NaN or Inf.

    Raises:
        MmacsError: If there is one; its quantizer is named.
    """
    for name, quantizer in quantizers(model):
        for key, value in quantizer.state_dict(prefix=f'{name}.').items():
            found = weights.get(key, weights.get(f'module.{key}'))
            if value.is_floating_point() and isinstance(found, torch.Tensor) and not found.isfinite().all():
                raise MmacsError(
                    f'the checkpoint has NaN or Inf in {key}: its run diverged, or it is damaged; take an earlier one'
                )


def check_fit(
    model: nn.Module, weights: Dict[str, torch.Tensor], start_anew: Sequence[str] = (), option: bool = False
) -> List[str]:
    """Require every weight of a model in a checkpoint, in its shape; steps of quantizers may be missing.

    Args:
        model (nn.Module): The model.
        weights (Dict[str, torch.Tensor]): Those of the checkpoint.
        start_anew (Sequence[str]): Patterns of weights that need not be there.
        option (bool): Whether the message may point at ``start_anew``. Defaults to False.

    Returns:
        List[str]: Names of the weights that match these patterns, and are missing or of another shape.

    Raises:
        MmacsError: If other weights are missing or of another shape, or any is not finite; the message counts and names
            them.
    """
    weights = {key.removeprefix('module.'): value for key, value in weights.items()}
    for name, module in model.named_modules():
        if isinstance(module, PerLevelBatchNorm2d):
            module.spread_shared(weights, f'{name}.')
    missing: Dict[str, str] = {}
    reshaped: List[str] = []
    diverged: List[str] = []
    for key, value in full_precision_state(model).items():
        if key not in weights:
            if not key.endswith('num_batches_tracked'):
                missing[key] = key
        elif not isinstance(weights[key], torch.Tensor):
            missing[key] = f'{key} is a {type(weights[key]).__name__}'
        elif weights[key].shape != value.shape:
            missing[key] = f'{key} {tuple(weights[key].shape)} instead of {tuple(value.shape)}'
            reshaped.append(key)
        elif value.is_floating_point() and not weights[key].is_floating_point():
            missing[key] = f'{key} is of {weights[key].dtype}'
        elif value.isfinite().all() and not weights[key].isfinite().all():
            diverged.append(key)
    if diverged:
        raise MmacsError(
            f'the checkpoint holds NaN or Inf in {len(diverged)} weights, first {", ".join(diverged[:3])}: its run has '
            f'diverged, take an earlier one'
        )
    anew = [key for key in missing if any(fnmatchcase(key, pattern) for pattern in start_anew)]
    found = [text for key, text in missing.items() if key not in anew]
    if found:
        advice = ''
        if option and len(reshaped) == len(missing):
            layers = list(dict.fromkeys(key.rpartition('.')[0] + '.*' for key in reshaped))
            advice = (
                f'; if another number of classes is meant, let these start anew: '
                f"QuantizationHook's start_anew={layers if len(layers) > 1 else layers[0]!r}"
            )
        raise MmacsError(
            f'the checkpoint does not fit this {type(model).__name__}: {len(found)} of its weights are missing or of '
            f'another shape, first {", ".join(found[:3])}{advice}'
        )
    return anew
