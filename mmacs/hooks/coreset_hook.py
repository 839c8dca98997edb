"""Every R epochs: score images, choose the coreset, tell the sampler."""

import logging
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Union

import numpy as np
import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook, IterTimerHook
from mmengine.runner import IterBasedTrainLoop, Runner

from mmacs.coreset.budget.prediction import Plan
from mmacs.coreset.budget.schedule import Extent, Schedule
from mmacs.coreset.data import ScoringView
from mmacs.coreset.engine import CoresetEngine
from mmacs.coreset.round_record import in_words, remove_rounds, write_round, write_summary
from mmacs.coreset.scoring.proxy import Proxy
from mmacs.coreset.scoring.scorers import Scorer
from mmacs.coreset.scoring.scoring_pass import ScoringPass
from mmacs.coreset.scoring.teacher_outputs import TeacherOutputStore
from mmacs.coreset.scoring.training_hook import TrainingHook
from mmacs.coreset.selection.constraints import Constraints
from mmacs.coreset.selection.importance import Importance
from mmacs.coreset.selection.policy import Policy
from mmacs.coreset.selection.selectors import Selector, digest
from mmacs.coreset.selection.trimming import noise_counts
from mmacs.hooks.iteration_loop import CoresetIterator
from mmacs.hooks.run import (
    agree_on_seed,
    coreset_sampler,
    deterministic_pipeline,
    refuse_mixed_images,
    unwrapped,
)
from mmacs.hooks.teacher import run_teacher
from mmacs.registry import HOOKS, SCORERS, SELECTORS
from mmacs.utils.checks import is_number, is_whole
from mmacs.utils.distributed import on_main, together
from mmacs.utils.errors import MmacsError

STATE_KEY = 'mmacs_coreset'


@HOOKS.register_module()
class CoresetHook(Hook):
    """Adaptive coreset selection (Huang et al. 2024, arXiv 2306.07215).

    In rounds, R epochs apart, training images are scored by the quantized model's own error, in detectors by as much
    as it exceeds the full-precision model's, and by its disagreement with that model; until the next round the
    :class:`mmacs.CoresetSampler` shows those that a selector picks by these scores. Every epoch holds the same number
    of images, whatever the policy.

    In an iteration-based loop all times below are in iterations instead of epochs.

    The teacher is made of the weights that the run starts from and kept in ``<work dir>/teacher.pth``. What scorers
    need of its outputs is computed once and kept on disk. Each round is logged, written to
    ``<work dir>/coreset/round_<n>.npz``, and travels in the checkpoint with the scores of all images.

    Args:
        scorer (dict): Config of a scorer, such as ``dict(type='mmacs.DenseDetectionScorer')``.
        interval (int): Epochs between rounds, R. Defaults to 10.
        weights (dict, optional): How much of each of the scorer's columns makes up the importance, see
            :class:`mmacs.coreset.selection.importance.Importance`; None takes the scorer's own:
            ``dict(evs='beta', ds='1 - beta')`` for classifiers, and for detectors the same with ``reducible_error`` in
            the place of ``evs``.
        beta (str or float): Schedule of the error's weight, see :func:`mmacs.coreset.beta`. Defaults to ``'cosine'``.
        normalisation (str, optional): ``'rank'``, ``'stratified_rank'``, ``'minmax'`` or ``'none'``; None takes the
            scorer's own.
        selector (dict): Config of a selector. Defaults to ``dict(type='mmacs.TopK')``.
        class_floor (int): Images that each class has at least, or all it has. Defaults to 0.
        max_gap (int, optional): Rounds after which an image that was in no coreset must be in one.
        random_share (float): Share of the coreset that is drawn at random, in [0, 1]. Defaults to 0.
        trim (float): Share of the images left out as suspected label errors, in [0, 1). Defaults to 0.
        warmup (int): Epochs of repeated random before the first round. Defaults to 0.
        full_data_last (int): Last epochs, which go evenly through all of the data. Defaults to 0.
        rounds (int, optional): Number of rounds after which the coreset stays; None: no end.
        unbiased (bool): Whether an image's loss is weighted by the inverse of its inclusion probability, so that the
            expected gradient is that of all data; needs a selector that knows probabilities. Defaults to False.
        max_weight (float): Bound on these weights, which costs a little of the unbiasedness. Defaults to 10.
        rescore (float): Share of the images that a round after the first scores again, stalest first, in [0, 1].
            Defaults to 1.
        harvest (bool): Whether training forwards give scores too, in the columns where that is sound. Defaults to
            False.
        resolution (float): Factor on the sides of images for scoring. Defaults to 1.
        precision (str): ``'float32'`` or ``'bfloat16'`` for scoring. Defaults to ``'float32'``.
        selection_budget (float, optional): Greatest share of the wall time for selection, such as 0.05: interval,
            ``rescore`` and resolution are then chosen so that measured costs stay within it. Defaults to None.
        force (bool): Whether to go on where selection and training are predicted to take longer than training on all
            images. Defaults to False.
        cache_dir (str, optional): Folder for the teacher's outputs, which several runs may share; None takes
            ``<work dir>/teacher_cache``.
        pipeline (list, optional): Deterministic pipeline to score under, with annotations; None makes it of the
            validation pipeline and the loading transforms of the training pipeline.
        batch_size (int, optional): Images per scoring batch; None takes that of training.

    Raises:
        MmacsError: If an argument is out of range or unknown.
    """

    priority = 'VERY_HIGH'  # before the timer starts, so that iterations aren't charged for a round

    def __init__(
        self,
        scorer: Dict[str, Any],
        interval: int = 10,
        weights: Optional[Mapping[str, Union[str, float]]] = None,
        beta: Union[str, float] = 'cosine',
        normalisation: Optional[str] = None,
        selector: Optional[Dict[str, Any]] = None,
        class_floor: int = 0,
        max_gap: Optional[int] = None,
        random_share: float = 0.0,
        trim: float = 0.0,
        warmup: int = 0,
        full_data_last: int = 0,
        rounds: Optional[int] = None,
        unbiased: bool = False,
        max_weight: float = 10.0,
        rescore: float = 1.0,
        harvest: bool = False,
        resolution: float = 1.0,
        precision: str = 'float32',
        selection_budget: Optional[float] = None,
        force: bool = False,
        cache_dir: Optional[str] = None,
        pipeline: Optional[List[Dict[str, Any]]] = None,
        batch_size: Optional[int] = None,
    ) -> None:
        counts = {'interval': interval, 'warmup': warmup, 'rounds': rounds, 'full_data_last': full_data_last}
        for name, value in {**counts, 'batch_size': batch_size}.items():
            least = 0 if name in ('warmup', 'full_data_last') else 1
            if value is not None and (not is_whole(value) or value < least):
                raise MmacsError(f'{name} must be a whole number, at least {least}, got {value!r}')
        if not is_number(rescore) or not 0 <= rescore <= 1:
            raise MmacsError(f'rescore must be a share of the images, from 0 to 1, got {rescore!r}')
        for name, value in {'unbiased': unbiased, 'harvest': harvest, 'force': force}.items():
            if not isinstance(value, bool):
                raise MmacsError(f'{name} must be True or False, got {value!r}')
        self.scorer = SCORERS.build(scorer, Scorer)
        self.importance = Importance(
            self.scorer.weights if weights is None else weights, beta, normalisation or self.scorer.normalisation
        )
        selector = SELECTORS.build(selector or dict(type='mmacs.TopK'), Selector)
        self.policy = Policy(selector, Constraints(class_floor, max_gap, random_share), trim)
        Proxy(resolution, precision)  # names its mistakes now; the plan may lower the resolution
        self.precision = precision
        plan = Plan(interval, rescore, resolution)
        self.schedule = Schedule(plan, warmup, full_data_last, rounds, selection_budget, force)
        self.unbiased = unbiased
        self.max_weight = max_weight
        self.harvest = harvest
        self.cache_dir = cache_dir
        self.pipeline = pipeline
        self.batch_size = batch_size
        self._resumed: Optional[Dict[str, Any]] = None
        self._teacher: Optional[str] = None  # fingerprint of its weights
        self._facts: Dict[str, float] = {}  # of the last round
        self._start = 0.0
        self._is_new = False  # whether there are scores that no coreset was drawn from yet

    # ---------------------------------------------------------------- what the run calls
    def before_train(self, runner: Runner) -> None:
        """Find the sampler, make the teacher, and take up a resumed run's coreset."""
        start = time.perf_counter()
        self._sampler = coreset_sampler(runner)
        if self._sampler is None:
            raise MmacsError(
                "CoresetHook needs train_dataloader.sampler=dict(type='mmacs.CoresetSampler', fraction=0.1)"
            )
        agree_on_seed(runner, self._sampler)
        model, loader = unwrapped(runner), runner.train_dataloader
        pipeline = self.pipeline or deterministic_pipeline(runner.cfg)
        view = ScoringView(loader.dataset, pipeline)
        with together():
            view.check_pipeline()
        batch_size = loader.batch_size or loader.batch_sampler.batch_size
        scoring = ScoringPass(view, self.batch_size or batch_size, loader.num_workers)
        self._engine = CoresetEngine(scoring, self.scorer, self.importance, self.policy, self.harvest)
        self._engine.seed = self._sampler.seed
        self.scorer.check(model, self._engine.columns)
        self._training_hook = None
        if self.harvest or self.unbiased:
            refuse_mixed_images(runner.cfg)
            self._training_hook = TrainingHook(self._engine, model, self.unbiased, self.max_weight)
        dear = sorted(set(self._engine.columns) - set(self._engine.training_columns))
        if self.schedule.asked.rescore == 0 and dear and self.schedule.rounds != 1:
            without = ' without harvest=True' if self.scorer.training_columns.issuperset(dear) else ''
            raise MmacsError(
                f'rescore=0 scores nothing after the first round, and {", ".join(dear)} cannot be harvested'
                f'{without}: set a rescore above 0, other weights, or rounds=1'
            )
        self._by_epoch = not isinstance(runner.train_loop, IterBasedTrainLoop)
        end = runner.max_epochs if self._by_epoch else runner.max_iters
        self._images_per_batch = batch_size * get_world_size()
        per_unit = self._sampler.size if self._by_epoch else self._images_per_batch
        self.schedule.begin(Extent(end, per_unit, self._sampler.size, len(view.positions), len(view)))
        if not self._by_epoch:
            self._iterator = CoresetIterator(
                loader, self._sampler, lambda: self._before_batch(runner), lambda number: self._draw(runner, number)
            )
            self._iterator.install(runner.train_loop)
        dry = self._engine.dry_run(self._sampler.size)
        selector = type(self.policy.selector).__name__
        runner.logger.info(f'Importance of an image: {self.importance}; {selector} chooses by it.')
        if self._training_hook is not None:
            self._training_hook.weights(dry)
        if runner.iter > 0:
            self._resume(runner)
        elif self._engine.needs_teacher:
            self._teacher = run_teacher(runner)[1]
        self._resumed = None
        self._teacher_outputs = TeacherOutputStore(
            self.cache_dir or Path(runner.work_dir) / 'teacher_cache',
            scoring,
            self.scorer,
            self._engine.columns,
            teacher=self._teacher,
            data=self._engine.data,
            pipeline=pipeline,
            # all of the model but the recipe: the teacher is in full precision
            model=[runner.cfg.model.get('model', runner.cfg.model), runner.cfg.get('data_preprocessor')],
        )
        self._apply_plan()
        on_main(lambda: remove_rounds(Path(runner.work_dir) / 'coreset', after=self._engine.ledger.round))
        self.schedule.selection_seconds += time.perf_counter() - start

    def before_train_epoch(self, runner: Runner) -> None:
        """Hold a round, or draw again, if that is due."""
        if self._by_epoch:
            self._hold_round_if_due(runner)
            self._draw(runner, runner.epoch)
            self._start = time.perf_counter()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Have this iteration's losses weighted, and its outputs recorded, as long as there is a coreset."""
        if self._training_hook is not None and not self.schedule.sweeps(self._now(runner)):
            held = self._engine.ledger.round + 1
            self._training_hook.begin(data_batch['data_samples'], harvest=held > 0 and self.schedule.awaits(held))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Optional[Dict[str, Any]] = None
    ) -> None:
        """Take the scores that the iteration gave; count images and seconds."""
        self.schedule.trained += self._images_per_batch
        if not self._by_epoch:
            self.schedule.training_seconds += time.perf_counter() - self._start
        if self._training_hook is not None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # harvesting would wait for what is queued, which is training's
            start = time.perf_counter()
            self._training_hook.end()
            harvesting = time.perf_counter() - start
            self.schedule.selection_seconds += harvesting
            self._pause(runner, harvesting)

    def after_train_epoch(self, runner: Runner, metrics: Optional[Dict[str, float]] = None) -> None:
        """Add up the seconds spent on training."""
        if self._by_epoch:
            self.schedule.training_seconds += time.perf_counter() - self._start

    def after_train(self, runner: Runner) -> None:
        """Log and write where the time went."""
        selection, training = self.schedule.selection_seconds, self.schedule.training_seconds
        runner.logger.info(f'Training took {training:.1f} s, coreset selection {selection:.1f} s.')
        summary = {
            'fraction': self._sampler.fraction,
            'images': self._sampler.size,
            'training_seconds': round(training, 3),
            'selection_seconds': round(selection, 3),
        }
        on_main(lambda: write_summary(Path(runner.work_dir) / 'coreset' / 'summary.json', summary))

    def before_save_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Put scores and coreset into the checkpoint, as tensors and plain values."""
        checkpoint[STATE_KEY] = {
            **self._engine.state_dict(),
            'schedule': self.schedule.state_dict(),
            'teacher': self._teacher,
            'sweep_start': self._sampler.sweep_start,
            'iterator': None if self._by_epoch else self._iterator.state_dict(),
        }

    def after_load_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Keep the state of a checkpoint until it is known whether the run is resumed."""
        self._resumed = checkpoint.get(STATE_KEY)

    # ---------------------------------------------------------------- rounds
    def _resume(self, runner: Runner) -> None:
        state = self._resumed
        if state is None:
            raise MmacsError('cannot resume: the checkpoint was written by a run without CoresetHook')
        self._engine.load_state_dict(state)
        self.schedule.load_state_dict(state['schedule'])
        if self._engine.needs_teacher:
            self._teacher = run_teacher(runner, state['teacher'])[1]
        self._sampler.seed = self._engine.seed
        if (state['iterator'] is None) != self._by_epoch:
            theirs, ours = ('an epoch', 'an iteration') if state['iterator'] is None else ('an iteration', 'an epoch')
            raise MmacsError(f'cannot resume: the checkpoint is of {theirs}-based run, the config of {ours}-based one')
        if state['sweep_start'] is not None and self.schedule.sweeps(self._now(runner)):
            self._sampler.sweep(state['sweep_start'])
        elif self._engine.selection is not None:
            held = len(self._engine.selection.indices)
            if held != self._sampler.size:
                raise MmacsError(
                    f"cannot resume with fraction={self._sampler.fraction:g}: the checkpoint's coreset holds {held} "
                    f"images, this config's {self._sampler.size}"
                )
            self._use_selection()
            runner.logger.info(
                f'Resumed the coreset of round {self._engine.ledger.round}, digest {digest(self._sampler.indices)}.'
            )
        if not self._by_epoch:
            self._iterator.load_state_dict(state['iterator'])

    def _apply_plan(self) -> None:
        self._engine.rescore = self.schedule.plan.rescore
        self._engine.scoring.proxy = Proxy(self.schedule.plan.resolution, self.precision)

    def _before_batch(self, runner: Runner) -> bool:
        """In an iteration-based loop: hold a round if one is due; whether a new pass has to begin."""
        self._start = time.perf_counter()
        held = self._hold_round_if_due(runner)
        self._pause(runner, time.perf_counter() - self._start)
        return held or (self._sampler.sweep_start is None and self.schedule.sweeps(self._now(runner)))

    def _pause(self, runner: Runner, seconds: float) -> None:
        """Have neither our own nor MMEngine's timer charge these seconds to an iteration."""
        self._start += seconds
        for hook in runner.hooks:
            if isinstance(hook, IterTimerHook) and hasattr(hook, 't'):  # it has no time before the first epoch
                hook.t += seconds

    def _now(self, runner: Runner) -> int:
        return runner.epoch if self._by_epoch else runner.iter

    def _hold_round_if_due(self, runner: Runner) -> bool:
        now, engine, schedule = self._now(runner), self._engine, self.schedule
        held = engine.ledger.round + 1
        if not schedule.due(now, held):
            return False
        start = time.perf_counter()
        model, teacher, store = unwrapped(runner), None, self._teacher_outputs
        if engine.needs_teacher:
            teacher = run_teacher(runner, self._teacher)[0]
            if store.teacher_outputs is None:
                store.find()
        if held == 0:
            costs = schedule.costs(*engine.measure(model, teacher, store.teacher_outputs))
            self._log_plan(runner, schedule.choose(costs, now, held, cached=store.teacher_outputs is not None))
            self._apply_plan()
            if teacher is not None and schedule.plan.resolution != schedule.asked.resolution:
                store.find()
        teacher_outputs = None if teacher is None else store.fill(teacher)
        began = time.perf_counter()
        facts = engine.hold_round(model, self.importance.beta_at(now, schedule.extent.end), teacher_outputs)
        scoring = time.perf_counter() - began
        if held == 0 and not engine.scoring.proxy.exact:
            proxy = engine.compare_proxy(model, teacher, self._sampler.fraction)
            facts.update(proxy)
            if min(value for name, value in proxy.items() if name != 'proxy_overlap') < 0.5:
                runner.logger.warning(
                    f'{engine.scoring.proxy} hardly gives the scores that resolution=1 and float32 give: '
                    f'{in_words(proxy)}.'
                )
        seconds = time.perf_counter() - start
        schedule.selection_seconds += seconds
        if held and facts['scored']:
            self._log_plan(
                runner, schedule.choose(schedule.costs(scoring / facts['scored']), now, held + 1, cached=True)
            )
            self._apply_plan()
        schedule.round_held(now)
        self._facts = {'beta': engine.beta} if self.importance.uses_beta else {}
        self._facts.update(facts, seconds=seconds)
        self._is_new = True
        return True

    def _log_plan(self, runner: Runner, sentence: str) -> None:
        runner.logger.log(logging.INFO if self.schedule.fits else logging.WARNING, sentence)

    def _draw(self, runner: Runner, number: int) -> None:
        """Give the sampler what an epoch or pass of this number is to show."""
        engine, start = self._engine, time.perf_counter()
        if self.schedule.sweeps(self._now(runner)):
            if self._sampler.sweep_start is None:
                self._sampler.sweep(number)
                runner.logger.info('From now on training goes evenly through all of the data.')
        elif self._is_new or (engine.selection is not None and self.policy.redraw):
            before, trained_before = self._sampler.indices, engine.ledger.trained_at.copy()
            engine.draw(self._sampler.size, number)
            self._use_selection()
            self.schedule.selection_seconds += time.perf_counter() - start
            if self._is_new:
                self._report(runner, before, trained_before)
                self._is_new = False
            self._pause(runner, time.perf_counter() - start)

    def _use_selection(self) -> None:
        self._sampler.set_indices(self._engine.selection.indices)
        if self._training_hook is not None:
            self._training_hook.use(self._engine.selection)

    # ---------------------------------------------------------------- what a person sees
    def _report(self, runner: Runner, before: Optional[np.ndarray], trained_before: np.ndarray) -> None:
        """Log a round, and write it."""
        engine, sampler, schedule, now = self._engine, self._sampler, self.schedule, self._now(runner)
        until = schedule.extent.end - schedule.full_data_last
        if schedule.rounds is None or engine.ledger.round + 1 < schedule.rounds:
            until = min(until, schedule.next_round)
        facts = {'fraction': sampler.fraction, 'images': sampler.size}
        if before is not None:
            facts['overlap'] = len(np.intersect1d(before, sampler.indices)) / sampler.size
        facts.update(self._facts)
        excluded = self.policy.excluded(engine.ledger)
        if excluded is not None:
            facts['trimmed'] = int(excluded.sum())
        if engine.noisy.any():
            held = np.zeros(len(engine.view), dtype=bool)
            held[engine.view.positions[sampler.indices]] = True
            facts.update(noise_counts(held, engine.noisy, excluded))
        unit, visit = ('epochs', 'epoch') if self._by_epoch else ('iterations', 'pass')
        redrawn = f', drawn anew in each {visit}' if self.policy.redraw else ''
        said = ('fraction', 'images', 'scored', 'seconds')
        details = in_words({name: value for name, value in facts.items() if name not in said})
        span = f'{unit} {now + 1} to {until}' if until > now + 1 else f'{unit.removesuffix("s")} {until}'
        runner.logger.info(
            f'Coreset for {span}: {sampler.size} of {len(engine.view.positions)} images '
            f'({sampler.fraction:.1%}){redrawn}, {facts["scored"]} scored in {facts["seconds"]:.1f} s, {details}, '
            f'digest {digest(sampler.indices)}'
        )
        runner.visualizer.add_scalars({f'coreset/{name}': value for name, value in facts.items()}, step=now)
        path = Path(runner.work_dir) / 'coreset' / f'round_{engine.ledger.round:03d}.npz'
        times = dict(epoch=runner.epoch, iteration=runner.iter, seconds=facts['seconds'])
        on_main(lambda: write_round(path, engine, trained_before, **times))
