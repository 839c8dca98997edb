"""Re-estimates BatchNorm's statistics when training ends."""

import time
from typing import Any, Optional

import numpy as np
from mmengine.dist import get_dist_info, get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from mmacs.datasets.items import items, load_by_items
from mmacs.hooks.run import unwrapped
from mmacs.quantization.batch_norm import reestimate_batch_norm
from mmacs.quantization.switchable import at_each_bits, bit_widths
from mmacs.registry import HOOKS
from mmacs.teacher.side_effects import without_side_effects
from mmacs.utils.checks import require_whole
from mmacs.utils.errors import MmacsError
from mmacs.utils.progress import phase


@HOOKS.register_module()
class BatchNormReestimationHook(Hook):
    """Replace BatchNorm's running averages by averages for the final weights.

    Once, after the last training iteration: before that checkpoint is written, and before the last validation. The
    images are spread evenly over the training data, all of it also where a coreset is trained on, which is biased by
    design, and go through the training pipeline, as what the running averages were made of. Every BatchNorm is
    re-estimated: leave the hook out where a base config's ``norm_eval=True`` statistics are to stay. With an
    ``EMAHook``, the statistics are those of the averaged weights, which are what is evaluated and deployed. A run that
    ``EarlyStoppingHook`` ends keeps its running averages, since nothing tells in time that it ends.

    MMPreTrain's ``PreciseBNHook`` does this for plain classifiers. It runs the whole model in train mode, dropout and
    the ranges of quantizers included, takes the last call's statistics where a BatchNorm is shared between pyramid
    levels, moves the random state of the rest of the run, and leaves averaged weights with statistics of others.

    Args:
        num_images (int): Training images, of all processes together. Defaults to 512.

    Raises:
        MmacsError: If ``num_images`` is not a positive integer.
    """

    priority = 'LOW'  # after EMAHook (NORMAL), before CheckpointHook (VERY_LOW)

    def __init__(self, num_images: int = 512) -> None:
        require_whole('num_images', num_images)
        self.num_images = num_images

    def before_train(self, runner: Runner) -> None:
        """Say now what would fail after all of training."""
        if not isinstance(runner.train_loop, (EpochBasedTrainLoop, IterBasedTrainLoop)):
            name = type(runner.train_loop).__name__
            raise MmacsError(f'BatchNormReestimationHook cannot tell when a {name} ends: leave the hook out')
        if min(self.num_images, len(runner.train_dataloader.dataset)) < 2 * get_world_size():
            raise MmacsError('BatchNormReestimationHook needs at least two images for each process: raise num_images')

    def after_train_epoch(self, runner: Runner) -> None:
        """Re-estimate after the last epoch of a run that counts epochs."""
        if isinstance(runner.train_loop, EpochBasedTrainLoop) and self.is_last_train_epoch(runner):
            self._reestimate(runner)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Optional[dict] = None
    ) -> None:
        """Re-estimate after the last iteration of a run that counts iterations."""
        if isinstance(runner.train_loop, IterBasedTrainLoop) and self.is_last_train_iter(runner):
            self._reestimate(runner)

    def _reestimate(self, runner: Runner) -> None:
        start = time.perf_counter()
        trained = unwrapped(runner)
        averaging = next((hook for hook in runner.hooks if isinstance(hook, EMAHook)), None)
        model = trained if averaging is None else averaging.ema_model.module
        # numbered as the epoch or pass after the last
        loader = self._loader(runner.train_dataloader, runner.seed, runner.max_iters)
        passes = len(bit_widths(model)) or 1  # each bit-width has statistics of its own
        with without_side_effects(model), phase('re-estimation of BatchNorm', passes * len(loader), 'batches') as shown:

            def reestimate() -> int:
                return reestimate_batch_norm(
                    model,
                    shown.each(loader),
                    lambda batch: model(**model.data_preprocessor(batch, False), mode='tensor'),
                )

            count, *_ = at_each_bits(model, reestimate)
        if averaging is not None:
            # EMAHook validates averaged weights within the trained model, by default with the latter's buffers
            averaged = dict(model.named_buffers())
            for name, buffer in trained.named_buffers():
                if name.endswith(('running_mean', 'running_var')):
                    buffer.copy_(averaged[name])
        runner.logger.info(
            f'Re-estimated {count} BatchNorm layers on {len(loader.sampler)} images per process in '
            f'{time.perf_counter() - start:.1f} s.'
        )

    def _loader(self, training: DataLoader, seed: int = 0, epoch: int = 0) -> DataLoader:
        """Returns this process's share of the images, in batches as in training; every process has equally many."""
        rank, world_size = get_dist_info()
        batch_size = training.batch_size or training.batch_sampler.batch_size
        size = len(training.dataset)
        count = max(1, min(self.num_images, size) // world_size)
        if count > batch_size:
            count -= count % batch_size  # a smaller last batch would count as much as the others
        chosen = np.linspace(0, size - 1, count * world_size).astype(int)
        load_by_items(training.dataset)
        return DataLoader(
            training.dataset,
            batch_size,
            sampler=list(items(chosen, range(rank, len(chosen), world_size), seed, epoch)),
            num_workers=training.num_workers,
            collate_fn=training.collate_fn,
            worker_init_fn=training.worker_init_fn,
        )
