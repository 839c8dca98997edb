"""The teacher's logits of training images, read from what the coreset's rounds keep of its outputs."""

from typing import Any, List, Optional, Tuple

import numpy as np
from mmengine.runner import Runner
from torch import Tensor

from mmacs.adapters.base import adapter_of
from mmacs.coreset.scoring.scoring_pass import ReadTeacherOutputs
from mmacs.hooks.coreset_hook import CoresetHook
from mmacs.hooks.run import deterministic_pipeline, refuse_mixed_images, training_transforms, unwrapped
from mmacs.utils.errors import MmacsError
from mmacs.utils.type_names import type_name


class CachedTeacher:
    """Reads the teacher's logits of the images of a batch, those that the test pipeline's view of an image gave.

    Args:
        runner (Runner): A run with quantizers, about to train.

    Raises:
        MmacsError: If the run has no coreset whose rounds keep class probabilities of the teacher, or mixes images.
    """

    def __init__(self, runner: Runner) -> None:
        self._coreset = next((hook for hook in runner.hooks if isinstance(hook, CoresetHook)), None)
        settings = None if self._coreset is None else self._coreset.settings
        if settings is None:
            why = (
                'has no CoresetHook'
                if self._coreset is None
                else f'has preset={self._coreset.preset!r}, without rounds'
            )
            raise MmacsError(
                f"from_cache=True reads what the rounds of CoresetHook keep of the teacher's outputs, and this run "
                f'{why}: leave out from_cache'
            )
        model = unwrapped(runner)
        self._adapter = adapter_of(model)
        self._scorer = scorer = settings.scorer
        columns = settings.of(model).scored_columns
        if not scorer.soft_label_columns & set(columns):
            kept = ' or '.join(sorted(scorer.soft_label_columns))
            keeps = (
                f'keeps where it scores {kept}, and this run scores {", ".join(columns)}' if kept else 'does not keep'
            )
            weigh = f'give {kept} a weight in importance or ' if kept else ''
            raise MmacsError(
                f"from_cache=True needs the teacher's class probabilities, which {type(scorer).__name__} {keeps}: "
                f'{weigh}leave out from_cache'
            )
        refuse_mixed_images(runner.cfg, 'from_cache needs')
        self._pass: Optional[Tuple[int, int]] = None  # epoch of the run and of the sampler
        self._read: Optional[ReadTeacherOutputs] = None
        pipeline = settings.images.pipeline or deterministic_pipeline(runner.cfg)
        plain = {type_name(step['type']) for step in pipeline}
        others = dict.fromkeys(name for name in map(type_name, training_transforms(runner.cfg)) if name not in plain)
        runner.logger.info(
            'Distillation from the cache: the teacher does not run in training steps. What it says of an image is what '
            'it says of the view that is scored'
            + (f', whatever {", ".join(others)} make of it in training.' if others else '.')
        )

    def prepare(self, runner: Runner) -> None:
        """Has the teacher run on what is missing of the images of a new pass. Call it in all processes.

        Args:
            runner (Runner): The run, about to train on a batch.

        Raises:
            MmacsError: If a data preprocessor mixes images.
        """
        if self._adapter.mixes_images:
            raise MmacsError(
                'from_cache needs images that are not mixed in training, and batch_augments of the data preprocessor '
                'mixes them: leave out one of the two'
            )
        sampler, data = self._coreset.run.engine.sampler, self._coreset.run.engine.data
        if (runner.epoch, sampler.epoch) != self._pass:
            self._read = self._coreset.run.read_teacher(np.unique(data.positions[sampler.epoch_indices()]))
            self._pass = (runner.epoch, sampler.epoch)

    def logits(self, data_samples: List[Any], num_classes: int) -> Tensor:
        """Returns the teacher's logits, on the CPU, float32, shape (B, K).

        Args:
            data_samples (list): Those of B images of the present pass.
            num_classes (int): K.
        """
        rows = self._read(self._coreset.run.engine.data.positions_of(data_samples))
        return self._scorer.teacher_logits(rows, num_classes)
