"""Checks the checkpoint, calibrates before the first step, prints what is quantized."""

from typing import Any, Dict, List, Optional

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.dist import all_reduce, broadcast
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmacs.datasets.distinct_images import DistinctImages
from mmacs.hooks.run import agree_on_seed, coreset_sampler, deterministic_pipeline, refuse_unsound_progress, unwrapped
from mmacs.hooks.work_dir import leave_work_dir, take_work_dir
from mmacs.quantization import Specification, calibrate, layer_table, quantizers
from mmacs.quantization.batch_norm import PerLevelBatchNorm2d
from mmacs.quantization.convert import full_precision_state
from mmacs.quantization.quantizers import Quantizer
from mmacs.quantization.synchronise import following_quantizers, synchronise_ranges
from mmacs.registry import HOOKS
from mmacs.teacher.side_effects import without_side_effects
from mmacs.utils.errors import MmacsError

STATE_KEY = 'mmacs_quantization'


@HOOKS.register_module()
class QuantizationHook(Hook):
    """What a quantized model needs of the run around it.

    - A loaded checkpoint must fit the model: otherwise quantization starts from partly random weights. Quantized
      checkpoints carry their recipe, and must have been trained with the one of the model.
    - Quantizers without steps are calibrated on a few training images before the first step. Those that a resumed run
      or a quantized checkpoint brings steps for are never calibrated again.
    - The table of layers goes to the log.
    - With several processes, ranges that follow the data are averaged after each iteration.
    - On a GPU, where looking at each tensor would cost time, every ``check_interval`` iterations it is asked whether
      any quantizer has met NaN or Inf; on a CPU they are an error where they appear.

    Args:
        num_images (int): Training images to calibrate on. Defaults to 64.
        batch_size (int): Images per calibration batch. Defaults to 8.
        check_interval (int): Iterations between the questions after NaN and Inf. Defaults to 50.
    """

    priority = 'HIGH'

    def __init__(self, num_images: int = 64, batch_size: int = 8, check_interval: int = 50) -> None:
        given = {'num_images': num_images, 'batch_size': batch_size, 'check_interval': check_interval}
        for name, value in given.items():
            if not isinstance(value, int) or value < 1:
                raise MmacsError(f'{name} must be a positive integer, got {value!r}')
        self.num_images = num_images
        self.check_interval = check_interval
        self.batch_size = batch_size
        self._has_loaded = False
        self._following: List[Quantizer] = []

    def after_load_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Refuse a checkpoint that doesn't fit, before it is loaded."""
        self._has_loaded = True
        refuse_unsound_progress(runner, checkpoint)
        model = unwrapped(runner)
        if STATE_KEY in checkpoint:
            found = Specification.from_state(checkpoint[STATE_KEY])
            Specification.of(model).require_same(found, resume=runner._resume)
        weights = checkpoint.get('state_dict', checkpoint)
        check_fit(model, weights)
        refuse_unsound_steps(model, weights)

    def before_save_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Put the recipe, and what it came to, into the checkpoint."""
        checkpoint[STATE_KEY] = Specification.of(unwrapped(runner)).state()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Optional[Dict[str, Any]] = None
    ) -> None:
        """Bring ranges that follow the data together; ask now and then whether a quantizer has met NaN or Inf."""
        synchronise_ranges(self._following)
        if self.every_n_train_iters(runner, self.check_interval):
            refuse_nonfinite(unwrapped(runner))

    def before_train(self, runner: Runner) -> None:
        """Calibrate what has no steps yet; print the table."""
        take_work_dir(runner)
        model = unwrapped(runner)
        sampler = coreset_sampler(runner)
        if sampler is not None:
            agree_on_seed(runner, sampler)
        if next(quantizers(model), None) is None:
            raise MmacsError("QuantizationHook found nothing quantized: wrap the model in type='mmacs.QuantizedModel'")
        if not all(quantizer.is_initialized() for _, quantizer in quantizers(model)):
            if not self._has_loaded:
                runner.logger.warning(
                    'NO FULL-PRECISION CHECKPOINT: quantization-aware training starts from the initial weights, which '
                    'costs accuracy, and a teacher made of them knows nothing. Set load_from to a trained checkpoint.'
                )
            self.calibrate(runner)
        self._following = following_quantizers(model)
        runner.logger.info(f'Quantized layers of {type(model).__name__}:\n{layer_table(model)}')

    def after_run(self, runner: Runner) -> None:
        """Let other runs into the work dir."""
        leave_work_dir(runner)

    def before_val(self, runner: Runner) -> None:
        """Refuse to evaluate steps that nobody set."""
        self._require_steps(runner)

    def before_test(self, runner: Runner) -> None:
        """Refuse to evaluate steps that nobody set."""
        self._require_steps(runner)

    def after_val_epoch(self, runner: Runner, metrics: Optional[Dict[str, float]] = None) -> None:
        """Ask whether a quantizer has met NaN or Inf."""
        refuse_nonfinite(unwrapped(runner))

    def after_test_epoch(self, runner: Runner, metrics: Optional[Dict[str, float]] = None) -> None:
        """Ask whether a quantizer has met NaN or Inf."""
        refuse_nonfinite(unwrapped(runner))

    def _require_steps(self, runner: Runner) -> None:
        if not any(quantizer.is_initialized() for _, quantizer in quantizers(unwrapped(runner))):
            raise MmacsError(
                'this checkpoint is in full precision and has no step sizes: train the quantized model first, or '
                'evaluate the full-precision config'
            )

    def calibrate(self, runner: Runner) -> None:
        """Calibrate on training images, spread evenly over the data, under the deterministic pipeline."""
        model = unwrapped(runner)
        images = DistinctImages(runner.train_dataloader.dataset, deterministic_pipeline(runner.cfg))
        count = min(self.num_images, len(images))
        chosen = np.linspace(0, len(images) - 1, count).astype(int).tolist()

        def batches():
            for start in range(0, count, self.batch_size):
                batch = [images[position] for position in chosen[start : start + self.batch_size]]
                yield model.data_preprocessor(pseudo_collate(batch), False)

        with without_side_effects(model):
            missed = calibrate(model, batches(), lambda data: model(**data, mode='predict'))
            if missed:  # branches that work in training alone, or only where something is detected
                missed = calibrate(model, batches(), lambda data: _run_as_in_training(model, data))
        for _, quantizer in quantizers(model):
            for tensor in quantizer.state_dict().values():
                broadcast(tensor)
            quantizer.read_flags()
        runner.logger.info(f'Calibrated on {count} images.')
        if missed:
            runner.logger.warning(f'{len(missed)} quantizers saw no data while calibrating: {", ".join(missed[:5])}')


def _run_as_in_training(model: nn.Module, data: Dict[str, Any]) -> None:
    """A forward with losses, in which BatchNorm keeps its statistics."""
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    model(**data, mode='loss')


def refuse_nonfinite(model: nn.Module) -> None:
    """Raise the error of the first quantizer that has met NaN or Inf."""
    found = [quantizer for _, quantizer in quantizers(model)]
    if not found:
        return
    flags = torch.cat([quantizer.met_nonfinite for quantizer in found]).int()
    all_reduce(flags, op='max')  # all processes stop, and none waits for one that has
    for quantizer, met in zip(found, flags.tolist()):
        if met:
            quantizer.refuse_nonfinite()


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


def check_fit(model: nn.Module, weights: Dict[str, torch.Tensor]) -> None:
    """Require every weight of a model in a checkpoint, in its shape; steps of quantizers may be missing.

    Raises:
        MmacsError: If weights are missing, of another shape, or not finite; the message counts and names them.
    """
    weights = {key.removeprefix('module.'): value for key, value in weights.items()}
    for name, module in model.named_modules():
        if isinstance(module, PerLevelBatchNorm2d):
            module.spread_shared(weights, f'{name}.')
    missing: List[str] = []
    diverged: List[str] = []
    for key, value in full_precision_state(model).items():
        if key not in weights:
            if not key.endswith('num_batches_tracked'):
                missing.append(key)
        elif not isinstance(weights[key], torch.Tensor):
            missing.append(f'{key} is a {type(weights[key]).__name__}')
        elif weights[key].shape != value.shape:
            missing.append(f'{key} {tuple(weights[key].shape)} instead of {tuple(value.shape)}')
        elif value.isfinite().all() and not weights[key].isfinite().all():
            diverged.append(key)
    if diverged:
        raise MmacsError(
            f'the checkpoint holds NaN or Inf in {len(diverged)} weights, first {", ".join(diverged[:3])}: its run has '
            f'diverged, take an earlier one'
        )
    if missing:
        raise MmacsError(
            f'the checkpoint does not fit this {type(model).__name__}: {len(missing)} of its weights are missing or of '
            f'another shape, first {", ".join(missing[:3])}'
        )
