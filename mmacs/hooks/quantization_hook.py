"""Checks the checkpoint, calibrates before the first step, prints what is quantized."""

from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

import torch
from mmengine.dist import broadcast
from mmengine.runner import Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmacs.hooks.batch_norm_hook import BatchNormReestimationHook
from mmacs.hooks.batches import require_batches
from mmacs.hooks.calibration_batches import CalibrationBatches
from mmacs.hooks.data_check import check_run
from mmacs.hooks.draws_hook import draw_by_step
from mmacs.hooks.dynamic_thresholds_hook import keep_dynamic_thresholds
from mmacs.hooks.loaded_checkpoint import check_fit, refuse_unsound_progress, refuse_unsound_steps
from mmacs.hooks.nonfinite import NonfiniteWatch
from mmacs.hooks.resume_hook import follow_config
from mmacs.hooks.run import agree_on_seed, coreset_sampler, report_at_end, share_done, unwrapped
from mmacs.hooks.summary_hook import SummarisedHook, summarise_now
from mmacs.hooks.work_dir import leave_work_dir, take_work_dir
from mmacs.quantization import Specification, calibrate, layer_table, quantizers, set_progress
from mmacs.quantization.layers.base import QuantizedLayer
from mmacs.quantization.progress import run_followers
from mmacs.quantization.quantizers import Quantizer
from mmacs.quantization.switchable import at_each_bits, bit_widths
from mmacs.quantization.synchronise import following_quantizers, synchronise_ranges
from mmacs.registry import HOOKS
from mmacs.teacher.side_effects import without_side_effects
from mmacs.utils.checks import require_patterns, require_switch, require_whole
from mmacs.utils.details import log_detail
from mmacs.utils.errors import MmacsError
from mmacs.utils.progress import phase
from mmacs.utils.type_names import type_name

STATE_KEY = 'mmacs_quantization'


@HOOKS.register_module()
class QuantizationHook(SummarisedHook):
    """What a quantized model needs of the run around it.

    - A loaded checkpoint must fit the model: otherwise quantization starts from partly random weights. Quantized
      checkpoints carry their recipe, and must have been trained with the one of the model.
    - Quantizers without steps are calibrated on a few training images before the first step. Those that a resumed run
      or a quantized checkpoint brings steps for are never calibrated again.
    - The table of layers goes to the log.
    - Quantizers that change in the course of the run are told how far it is, before each iteration.
    - With several processes, ranges that follow the data are averaged after each iteration.
    - On a GPU, where looking at each tensor would cost time, every ``check_interval`` iterations it is asked whether
      any quantizer has met NaN or Inf, or negative values in a range without; on a CPU they are an error, or a warning,
      where they appear. A loss scale that skips the steps that NaN and Inf spoil is given some time, see
      :class:`~mmacs.hooks.nonfinite.NonfiniteWatch`.

    Args:
        num_images (int): Training images to calibrate on. Defaults to 64.
        batch_size (int): Images per calibration batch. Defaults to 8.
        check_interval (int): Iterations between the questions after NaN and Inf. Defaults to 50.
        start_anew (str or Sequence[str], optional): Patterns of the weights that may be missing in ``load_from``, or
            have another shape there, and then keep their initial values: ``'bbox_head.retina_cls.*'`` to start from a
            detector of other classes. They are named in the log. None requires all weights.
        report (bool): Whether the run ends with a page on what quantization does to each layer, measured on 256
            validation images: ``<work dir>/quant_report/index.html``, as ``mmacs report quantization``
            writes it. Defaults to False.

    Raises:
        MmacsError: If a value is out of range; when weights are loaded, if they do not fit.
    """

    priority = 'HIGH'

    def __init__(
        self,
        num_images: int = 64,
        batch_size: int = 8,
        check_interval: int = 50,
        start_anew: Optional[Union[str, Sequence[str]]] = None,
        report: bool = False,
    ) -> None:
        require_switch('report', report)
        self.report = report
        given = {'num_images': num_images, 'batch_size': batch_size, 'check_interval': check_interval}
        for name, value in given.items():
            require_whole(name, value)
        if start_anew is not None:
            require_patterns('start_anew', start_anew)
        self.start_anew = [start_anew] if isinstance(start_anew, str) else list(start_anew or ())
        self._anew: List[str] = []
        self.num_images = num_images
        self.check_interval = check_interval
        self.batch_size = batch_size
        self._has_loaded = False
        self._watch = NonfiniteWatch()
        self._following: List[Quantizer] = []
        self._has_run_followers = False

    def before_run(self, runner: Runner) -> None:
        """Compares classes; has a resumed run follow its config, and what is random the seed and the step alone."""
        check_run(runner)
        follow_config(runner)
        draw_by_step(runner)
        keep_dynamic_thresholds(runner)
        summarise_now(runner)

    def summary(self, runner: Runner) -> Dict[str, str]:
        """Returns a row of :class:`~mmacs.hooks.summary_hook.SummaryHook`."""
        model, bits = unwrapped(runner), {'weights': set(), 'activations': set()}
        for name, quantizer in quantizers(model):
            bits['weights' if name.endswith('weight_quantizer') else 'activations'].add(quantizer.bits)
        layers = sum(isinstance(module, QuantizedLayer) for module in model.modules())
        shown = [f'{what} in {" and ".join(map(str, sorted(found)))} bits' for what, found in bits.items() if found]
        recipe = _recipe(getattr(model, 'recipe', None))
        return {'recipe': f'{recipe}: {layers} layers quantized, {", ".join(shown)}'} if shown else {}

    def after_load_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Refuse a checkpoint that doesn't fit, before it is loaded."""
        self._has_loaded = True
        refuse_unsound_progress(runner, checkpoint)
        model = unwrapped(runner)
        if STATE_KEY in checkpoint:
            if not hasattr(model, 'recipe'):
                raise _nothing_quantized()
            found = Specification.from_state(checkpoint[STATE_KEY])
            Specification.of(model).require_same(found, resume=runner._resume)
        allowed = () if runner._resume else self.start_anew
        weights = checkpoint.get('state_dict', checkpoint)
        self._anew = check_fit(model, weights, allowed, option=True)
        refuse_unsound_steps(model, weights)

    def before_save_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Put the recipe, and what it came to, into the checkpoint."""
        checkpoint[STATE_KEY] = Specification.of(unwrapped(runner)).state()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Tell quantizers that change in the course of the run how far it is."""
        if self._has_run_followers:
            set_progress(unwrapped(runner), share_done(runner, batch_idx))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Optional[Dict[str, Any]] = None
    ) -> None:
        """Bring ranges that follow the data together; ask now and then whether a quantizer has met NaN or Inf."""
        if self._following:
            at_each_bits(unwrapped(runner), lambda: synchronise_ranges(self._following))
        if self.every_n_train_iters(runner, self.check_interval):
            self._watch.ask(unwrapped(runner), runner.optim_wrapper)
            warn_of_negative(unwrapped(runner))

    def before_train(self, runner: Runner) -> None:
        """Calibrate what has no steps yet; print the table."""
        take_work_dir(runner)
        if self.report:
            report_at_end(runner, 'QuantizationReportHook')
        model = unwrapped(runner)
        sampler = coreset_sampler(runner)
        if sampler is not None:
            agree_on_seed(runner, sampler)
        require_batches(runner)
        if next(quantizers(model), None) is None:
            raise _nothing_quantized()
        if bit_widths(model) and not any(type(hook).__name__ == 'SwitchableBitsHook' for hook in runner.hooks):
            raise MmacsError(
                f'the recipe has bit_widths={list(bit_widths(model))}, which nothing trains: add '
                f"custom_hooks=[dict(type='mmacs.SwitchableBitsHook')], or leave out bit_widths"
            )
        if not all(quantizer.is_initialized() for _, quantizer in quantizers(model)):
            if not self._has_loaded:
                runner.logger.warning(
                    'NO FULL-PRECISION CHECKPOINT: quantization-aware training starts from the initial weights, which '
                    'costs accuracy, and a teacher made of them knows nothing. Set load_from to a trained checkpoint.'
                )
            self.calibrate(runner)
        if self._anew:
            runner.logger.warning(
                f'{len(self._anew)} weights are not those of the checkpoint and start anew: {", ".join(self._anew)}. A '
                f'teacher that is made of this model has them untrained too.'
            )
        self._following = following_quantizers(model)
        self._prepare_run_followers(runner)
        if runner.cfg.get('compile'):
            _prepare_compiling(runner)
        log_detail(f'Quantized layers of {type(model).__name__}:\n{layer_table(model)}')

    def _prepare_run_followers(self, runner: Runner) -> None:
        """Find quantizers that change in the course of the run; warn where BatchNorm will not follow them."""
        model = unwrapped(runner)
        self._has_run_followers = bool(run_followers(model))
        reestimated = any(isinstance(hook, BatchNormReestimationHook) for hook in runner.hooks)
        if self._has_run_followers and not reestimated and any(isinstance(m, _BatchNorm) for m in model.modules()):
            kinds = {type(quantizer).__name__ for quantizer in run_followers(model)}
            runner.logger.warning(
                f'With {" and ".join(sorted(kinds))} weights lie between their levels in training, and BatchNorm takes '
                f'its statistics of these: add mmacs.BatchNormReestimationHook to default_hooks.'
            )

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
        self._watch.ask(unwrapped(runner))

    def after_test_epoch(self, runner: Runner, metrics: Optional[Dict[str, float]] = None) -> None:
        """Ask whether a quantizer has met NaN or Inf."""
        self._watch.ask(unwrapped(runner))

    def _require_steps(self, runner: Runner) -> None:
        if self._anew and runner.iter == 0:
            raise MmacsError(
                f'the checkpoint does not fit: {", ".join(self._anew[:3])} would be evaluated untrained, since '
                f'start_anew is for training'
            )
        if not any(quantizer.is_initialized() for _, quantizer in quantizers(unwrapped(runner))):
            raise MmacsError(
                'this checkpoint is in full precision and has no step sizes: train the quantized model first, or '
                'evaluate the full-precision config'
            )

    def calibration_batches(self, runner: Runner, num_images: Optional[int] = None) -> CalibrationBatches:
        """Returns the batches that :meth:`calibrate` runs, or such of another number of images."""
        return CalibrationBatches(runner, num_images or self.num_images, self.batch_size)

    def calibrate(self, runner: Runner) -> None:
        """Calibrate on training images, spread evenly over the data, under the deterministic pipeline."""
        model = unwrapped(runner)
        batches = self.calibration_batches(runner)
        with without_side_effects(model):
            with phase('calibration', batches.count) as under_way:
                missed = calibrate(model, batches.shown(under_way), lambda data: model(**data, mode='predict'))
            if missed:  # branches that work in training alone, or only where something is detected
                with phase('calibration of what only training runs', batches.count) as under_way:
                    shown = batches.shown(under_way)
                    missed = calibrate(model, shown, lambda data: _run_as_in_training(model, data))
        at_each_bits(model, lambda: _take_ranges_of_main(model))
        runner.logger.info(f'Calibrated on {batches.count} images.')
        if missed:
            runner.logger.warning(f'{len(missed)} quantizers saw no data while calibrating: {", ".join(missed[:5])}')


def _take_ranges_of_main(model: nn.Module) -> None:
    """Take the main process's ranges."""
    for _, quantizer in quantizers(model):
        for tensor in (*quantizer.parameters(recurse=False), *quantizer.buffers(recurse=False)):
            broadcast(tensor.detach())
        quantizer.read_flags()


def quantization_hook(runner: Runner) -> QuantizationHook:
    """Returns the hook by which a run calibrates; one with all defaults where it has none."""
    return next((hook for hook in runner.hooks if isinstance(hook, QuantizationHook)), QuantizationHook())


def _recipe(recipe: Any) -> str:
    """Returns a recipe in a few words: its preset and what it changes."""
    if not isinstance(recipe, Mapping):
        return str(recipe)
    changes = ', '.join(_change(name, value) for name, value in recipe.items() if name != 'preset')
    return f'{recipe.get("preset", "own")}{f" with {changes} of its own" if changes else ""}'


def _prepare_compiling(runner: Runner) -> None:
    """Say what to expect; leave out the optimizer, of which each group and each learning rate makes another graph."""
    runner.optim_wrapper.update_params = torch.compiler.disable(runner.optim_wrapper.update_params)
    runner.logger.info(
        'compile: torch compiles while the first iterations run, and again for images of other sizes. On a CPU that '
        'takes minutes, in which nothing is logged; TORCHINDUCTOR_CACHE_DIR=FOLDER keeps it for later runs.'
    )


def _run_as_in_training(model: nn.Module, data: Dict[str, Any]) -> None:
    """A forward with losses, in which BatchNorm keeps its statistics."""
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    model(**data, mode='loss')


def warn_of_negative(model: nn.Module) -> None:
    """Warn of quantizers that met negative values in training and none while calibrating, each once."""
    found = [quantizer for _, quantizer in quantizers(model) if not quantizer.warned_of_negative]
    met = torch.cat([quantizer.met_negative for quantizer in found]).tolist() if found else []
    for quantizer, negative in zip(found, met):
        if negative:
            quantizer.warn_of_negative()


def _nothing_quantized() -> MmacsError:
    return MmacsError(
        "QuantizationHook found nothing quantized: wrap the model in type='mmacs.QuantizedModel', or leave the hook out"
    )


def _change(name: str, value: Any) -> str:
    kind = type_name(value['type']) if isinstance(value, Mapping) and 'type' in value else None
    return f'{name} ({kind})' if kind else name
