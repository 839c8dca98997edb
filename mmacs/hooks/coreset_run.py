"""The coreset of one run: brings together its loader, its model, its teacher and the engine."""

import time
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
from mmengine.dist import get_world_size
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn

from mmacs.coreset.data import TrainingData
from mmacs.coreset.engine import CoresetEngine
from mmacs.coreset.ground_truth import write_ground_truth
from mmacs.coreset.resumed_state import sound_state
from mmacs.coreset.round_record import in_words, remove_rounds, write_round, write_summary
from mmacs.coreset.scoring.proxy import Proxy
from mmacs.coreset.scoring.scoring_pass import ReadTeacherOutputs, ScoringPass
from mmacs.coreset.scoring.teacher_outputs import TeacherOutputs
from mmacs.coreset.scoring.training_hook import TrainingHook
from mmacs.coreset.settings import CoresetSettings
from mmacs.datasets.distinct_images import DistinctImages
from mmacs.hooks.iteration_loop import CoresetIterator
from mmacs.hooks.run import (
    agree_on_seed,
    deterministic_pipeline,
    leave_out_of_timers,
    refuse_mixed_images,
    require_coreset_sampler,
    resumed_from,
    unwrapped,
)
from mmacs.hooks.run_record import write_run
from mmacs.hooks.teacher import run_teacher
from mmacs.models.quantized_model import full_precision_config
from mmacs.utils.clock import seconds_since
from mmacs.utils.details import log_detail
from mmacs.utils.distributed import on_main, together
from mmacs.utils.errors import MmacsError
from mmacs.utils.files import DAY, remove_leftovers
from mmacs.utils.progress import phase


class CoresetRun:
    """Holds rounds and begins epochs (or passes, in an iteration-based loop) of one run.

    Args:
        runner (Runner): The run, about to train.
        settings (CoresetSettings): What the config says.
        cache_dir (str, optional): Folder for the teacher's outputs, and for ``training_data/``, what is known of the
            images; None takes ``<work dir>/teacher_cache`` and ``<work dir>``.

    Attributes:
        engine (CoresetEngine): What chooses.
        by_epoch (bool): Whether times are epochs, otherwise iterations.

    Raises:
        MmacsError: If the run has no :class:`mmacs.CoresetSampler`, or a setting does not fit it.
    """

    def __init__(self, runner: Runner, settings: CoresetSettings, cache_dir: Optional[str]) -> None:
        start = time.perf_counter()
        sampler = require_coreset_sampler(runner)
        agree_on_seed(runner, sampler)
        settings = settings.of(unwrapped(runner))
        self._runner, self._settings = runner, settings
        self._folder = Path(runner.work_dir) / 'coreset'
        self._cache_dir = cache_dir or Path(runner.work_dir) / 'teacher_cache'
        self._teacher: Optional[str] = None  # fingerprint of its weights
        self._full_size: Optional[TeacherOutputs] = None  # where rounds score smaller images
        self._started = 0.0  # clock at the start of the epoch or iteration, moved on by what is not training
        self.by_epoch = not isinstance(runner.train_loop, IterBasedTrainLoop)
        loader = runner.train_dataloader
        images = DistinctImages(loader.dataset, self._pipeline())
        with together():
            images.check_pipeline()
        known = Path(cache_dir or runner.work_dir) / 'training_data'
        on_main(lambda: remove_leftovers(known, older_than=DAY))
        data = TrainingData.read(
            images,
            known,
            with_contents=settings.needs_teacher,
            num_workers=loader.num_workers,
        )
        settings.scorer.check(unwrapped(runner), settings.scored_columns)
        batch_size = loader.batch_size or loader.batch_sampler.batch_size
        self._images_per_batch = batch_size * get_world_size()
        self.engine = CoresetEngine(
            settings,
            data,
            ScoringPass(data, settings.images.batch_size or batch_size, loader.num_workers),
            sampler,
            end=runner.max_epochs if self.by_epoch else runner.max_iters,
            per_unit=sampler.mean_size if self.by_epoch else self._images_per_batch,
        )
        self.training_hook = self._build_training_hook()
        if not self.by_epoch:
            self._iterator = CoresetIterator(loader, sampler, self._before_batch, self.begin)
            self._iterator.install(runner.train_loop)
        dry = self.engine.dry_run()
        if self.training_hook is not None:
            self.training_hook.weights(dry)
        chooser = type(settings.policy.selector).__name__
        log_detail(f'Importance of an image: {settings.importance}; {chooser} chooses by it.')
        self._preparation = seconds_since(start)  # seconds

    def _build_training_hook(self) -> Optional[TrainingHook]:
        settings, engine = self._settings, self.engine
        if not settings.cost.harvest and settings.max_weight is None:
            return None
        refuse_mixed_images(self._runner.cfg, 'harvest and unbiased need')
        return TrainingHook(
            unwrapped(self._runner),
            engine.data,
            settings.scorer,
            settings.training_columns,
            engine.state.record_training_scores,
            settings.max_weight,
        )

    def _pipeline(self) -> List[Dict[str, Any]]:
        return self._settings.images.pipeline or deterministic_pipeline(self._runner.cfg)

    # ---------------------------------------------------------------- begin and end of the run
    def start(self, resumed: Optional[Dict[str, Any]]) -> None:
        """Makes the teacher, or takes up the coreset of a run that is being resumed.

        Args:
            resumed (Dict[str, Any], optional): From :meth:`state_dict`, None if the run starts.

        Raises:
            MmacsError: If the state is not of this run.
        """
        start, runner, engine = time.perf_counter(), self._runner, self.engine
        expected = None
        if resumed is not None:
            state = sound_state(resumed, resumed_from(runner), engine.data, self.now)
            self._resume(state)
            expected = state['teacher']
        if self._settings.needs_teacher:
            teacher, self._teacher = run_teacher(runner, expected)
        if self._settings.needs_teacher and engine.awaits_round():
            engine.teacher = self._outputs_of(teacher)
            if engine.state.round >= 0:  # what this round needed of it is on disk
                engine.teacher.find(engine.scoring)
                engine.teacher.release()
        on_main(lambda: remove_rounds(self._folder, after=engine.state.round))
        on_main(self._describe)
        engine.state.progress.selection_seconds += self._preparation + seconds_since(start)

    def _outputs_of(self, teacher: nn.Module) -> TeacherOutputs:
        cfg, data = self._runner.cfg, self.engine.data
        return TeacherOutputs(
            self._cache_dir,
            teacher,
            self._settings.scorer,
            self._settings.scored_columns,
            weights=self._teacher,
            data=data.fingerprint,
            contents=data.contents,
            meta=[base.metainfo for base in data.images.bases],
            pipeline=self._pipeline(),
            # all of the model but the recipe: the teacher is in full precision
            model=[full_precision_config(cfg.model), cfg.get('data_preprocessor')],
        )

    def _describe(self) -> None:
        """Writes what reports need beside the rounds."""
        data, dataset = self.engine.data, self._runner.train_dataloader.dataset
        classes = (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()
        write_run(self._folder / 'run.json', self._runner.cfg, self._settings)
        write_ground_truth(self._folder / 'ground_truth.npz', data.images, classes, data.fingerprint)

    def _resume(self, state: Dict[str, Any]) -> None:
        if (state['iterator'] is None) != self.by_epoch:
            theirs, ours = ('an epoch', 'an iteration') if state['iterator'] is None else ('an iteration', 'an epoch')
            raise MmacsError(f'cannot resume: the checkpoint is of {theirs}-based run, the config of {ours}-based one')
        self.engine.load_state_dict(state, self.now)
        self._use_weights()
        if not self.by_epoch:
            self._iterator.load_state_dict(state['iterator'])

    def state_dict(self) -> Dict[str, Any]:
        """Returns tensors and plain values."""
        iterator = None if self.by_epoch else self._iterator.state_dict()
        return {**self.engine.state_dict(), 'teacher': self._teacher, 'iterator': iterator}

    def finish(self) -> None:
        """Logs and writes where the time went."""
        progress, sampler = self.engine.state.progress, self.engine.sampler
        selection, training = progress.selection_seconds, progress.training_seconds
        self._runner.logger.info(f'Training took {training:.1f} s, coreset selection {selection:.1f} s.')
        summary = {
            'fraction': sampler.fraction,
            'images': sampler.mean_size,
            'training_seconds': round(training, 3),
            'selection_seconds': round(selection, 3),
        }
        on_main(lambda: write_summary(self._folder / 'summary.json', summary))

    # ---------------------------------------------------------------- rounds
    @property
    def now(self) -> int:
        """The present epoch or iteration."""
        return self._runner.epoch if self.by_epoch else self._runner.iter

    def hold_round_if_due(self) -> bool:
        """Holds a round if one is due; returns whether it was."""
        if not self.engine.is_due(self.now):
            return False
        self.flush()
        self.engine.hold_round(unwrapped(self._runner), self.now)
        return True

    def begin(self, number: int) -> None:
        """Gives the sampler what an epoch or pass of this number is to show; reports a new round."""
        engine, runner, start = self.engine, self._runner, time.perf_counter()
        if not engine.sweeps(self.now):
            self.flush()
            with phase('choosing the coreset'):
                held = engine.begin(number)
            self._use_weights()
            if held is not None:
                unit, visit = ('epoch', 'epoch') if self.by_epoch else ('iteration', 'pass')
                runner.logger.info(in_words(engine, held, self.now, unit, visit))
                scalars = {f'coreset/{name}': value for name, value in held.facts.items()}
                runner.visualizer.add_scalars(scalars, step=self.now)
                path = self._folder / f'round_{engine.state.round:03d}.npz'
                on_main(lambda: write_round(path, engine, held, epoch=runner.epoch, iteration=runner.iter))
            self._leave_out(seconds_since(start))
        elif engine.sampler.sweep_start is None:
            engine.sampler.sweep(number)
            runner.logger.info('From now on training goes evenly through all of the data.')

    def _use_weights(self) -> None:
        if self.training_hook is not None and self.engine.state.selection is not None:
            self.training_hook.use(self.engine.state.selection)

    def _before_batch(self) -> bool:
        """In an iteration-based loop: holds a round if one is due; returns whether a new pass has to begin."""
        self.start_clock()
        held = self.hold_round_if_due()
        self._leave_out(seconds_since(self._started))
        return held or (self.engine.sampler.sweep_start is None and self.engine.sweeps(self.now))

    # ---------------------------------------------------------------- the teacher
    def read_teacher(self, positions: np.ndarray) -> ReadTeacherOutputs:
        """Returns what reads the teacher's outputs of some images at full size; where they are missing it runs.

        They are those that rounds score by, unless rounds score smaller images. Call it in all processes.

        Args:
            positions (np.ndarray): The images, int64, ascending.
        """
        start, engine = time.perf_counter(), self.engine
        scoring = engine.scoring.with_proxy(Proxy(precision=engine.scoring.proxy.precision))
        if engine.scoring.proxy == scoring.proxy:
            outputs = engine.teacher = engine.teacher or self._outputs_of(self._full_precision_model())
        else:
            outputs = self._full_size = self._full_size or self._outputs_of(self._full_precision_model())
        outputs.find(scoring)
        cost = self._settings.cost
        if outputs is engine.teacher and cost.candidates is None and cost.budget is None:
            positions = np.arange(len(engine.data))  # rounds need all of them
        read = outputs.fill(scoring, positions)
        if outputs is self._full_size or not engine.awaits_round():
            outputs.release()
        self._charge_selection(seconds_since(start))
        return read

    def _full_precision_model(self) -> nn.Module:
        return run_teacher(self._runner, self._teacher)[0]

    # ---------------------------------------------------------------- training forwards
    def hook_forward(self, data_samples: List[Any]) -> None:
        """Has the losses of the coming iteration weighted and its outputs scored, as long as there is a coreset."""
        if self.training_hook is not None and not self.engine.sweeps(self.now):
            of_use = self.engine.state.round >= 0 and self.engine.awaits_round()
            self.training_hook.begin(data_samples, score=of_use)

    def unhook_forward(self, complete: bool) -> None:
        """Takes the scores that the iteration gave; hands them on at once if the state has to be complete."""
        if self.training_hook is not None:
            start = time.perf_counter()
            self.training_hook.end()
            if complete:
                self.flush()
            seconds = seconds_since(start)
            self._charge_selection(seconds)

    def flush(self) -> None:
        """Completes the state by the scores of the last iterations. Call it in all processes at once."""
        if self.training_hook is not None:
            self.training_hook.flush()

    # ---------------------------------------------------------------- clocks
    def start_clock(self) -> None:
        """From now on time is that of training."""
        self._started = time.perf_counter()

    def stop_clock(self) -> None:
        """Adds the time since the start to that of training."""
        self.engine.state.progress.training_seconds += seconds_since(self._started)

    def count_images(self) -> None:
        """Adds the images of an iteration."""
        self.engine.state.progress.trained_images += self._images_per_batch

    def _charge_selection(self, seconds: float) -> None:
        """Counts seconds that have just passed to selection, not to training."""
        self._leave_out(seconds)
        self.engine.state.progress.selection_seconds += seconds

    def _leave_out(self, seconds: float) -> None:
        """Has neither our own nor MMEngine's timer charge these seconds to training."""
        self._started += seconds
        leave_out_of_timers(self._runner, seconds)
