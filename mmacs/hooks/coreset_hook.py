"""Every R epochs: score images, choose the coreset, tell the sampler; or tell it how to draw without scores."""

from pathlib import Path
from typing import Any, Dict, Optional, Union

from mmengine.dist import get_world_size
from mmengine.runner import IterBasedTrainLoop, Runner
from mmengine.runner.base_loop import BaseLoop

from mmacs.coreset import presets
from mmacs.coreset.settings import CoresetSettings, Group, check_settings
from mmacs.hooks.batches import require_batches
from mmacs.hooks.coreset_run import CoresetRun
from mmacs.hooks.draws_hook import draw_by_step
from mmacs.hooks.dynamic_thresholds_hook import keep_dynamic_thresholds
from mmacs.hooks.fraction import plan_epochs
from mmacs.hooks.resume_hook import follow_config
from mmacs.hooks.run import (
    agree_on_seed,
    coreset_sampler,
    report_at_end,
    require_coreset_sampler,
    require_whole_evaluation,
    saves_checkpoint_now,
)
from mmacs.hooks.summary_hook import SummarisedHook, summarise_now
from mmacs.hooks.time_left_hook import add_to_time_left
from mmacs.hooks.work_dir import leave_work_dir, take_work_dir
from mmacs.registry import HOOKS
from mmacs.utils.checks import require_switch
from mmacs.utils.errors import MmacsError

STATE_KEY = 'mmacs_coreset'


@HOOKS.register_module()
class CoresetHook(SummarisedHook):
    """Adaptive coreset selection, after ACS (Huang et al. 2024, arXiv 2306.07215).

    In rounds, R epochs apart, training images are scored by the quantized model's own error, as much as it exceeds the
    full-precision model's, and by its disagreement with that model. Until the next round the
    :class:`mmacs.CoresetSampler` shows those that a selector picks by these scores. Every epoch holds the same number
    of images, whatever the policy. In an iteration-based loop all times are in iterations instead of epochs.

    A preset says how images are chosen, see :mod:`mmacs.coreset.presets`; what is given besides wins, setting by
    setting, a selector whole. ``'rs2'``, ``'static'`` and ``'full'`` score nothing: the hook only tells the sampler,
    and what else is given has no use. The log says what the preset means and what the config changes of it.

    The teacher is made of the weights that the run starts from and kept in ``<work dir>/teacher.pth``. What scorers
    need of its outputs is computed once and kept on disk. Each round is logged, written to
    ``<work dir>/coreset/round_<n>.npz``, and travels in the checkpoint with the scores of all images.

    Args:
        scorer (dict): Config of a scorer, such as ``dict(type='mmacs.DenseDetectionScorer')``; there is no default.
        importance (dict, optional): ``weights``, ``beta`` and ``normalisation``, see
            :class:`mmacs.coreset.selection.importance.Importance`. By the default preset they are the scorer's own:
            ``weights=dict(reducible_error='beta', ds='1 - beta')``; for a model without quantizers, which has no
            teacher, ``weights=dict(evs=1.0)``.
        selector (dict, optional): Config of a selector. The default preset has ``dict(type='mmacs.ClassBalanced',
            selector=dict(type='mmacs.GumbelTopK', temperature=0.5))``.
        constraints (dict, optional): ``class_floor``, ``max_gap``, ``random_share`` and ``trim``, see
            :class:`mmacs.coreset.selection.constraints.Constraints`.
        schedule (dict, optional): ``interval``, ``warmup``, ``full_data_last`` and ``rounds``, see
            :class:`mmacs.coreset.budget.schedule.Schedule`.
        cost (dict or 'auto', optional): ``rescore``, ``harvest``, ``resolution``, ``precision``, ``candidates``,
            ``budget`` and ``force``, see :class:`mmacs.coreset.budget.cost.Cost`. ``'auto'`` is
            ``dict(budget='auto')``: measured seconds decide how rounds are made cheap enough.
        scoring (dict, optional): ``pipeline`` and ``batch_size``, see :class:`mmacs.coreset.settings.Images`.
        unbiased (bool or float): Whether an image's loss is weighted by the inverse of its inclusion probability, so
            that the expected gradient is that of all data; needs a selector that knows probabilities. A number is the
            bound on these weights, which costs a little of the unbiasedness; True bounds them by 10. None, the
            default, leaves it to the preset; most have False.
        cache_dir (str, optional): Folder for the teacher's outputs, which several runs may share, also at the same
            time; None takes ``<work dir>/teacher_cache``. Outputs that were computed of other pixels are never taken:
            each image file is read once for that, and again when its size, inode or times change.
        preset (str): What the settings are changes of. Defaults to ``'mmacs'``.
        report (bool): Whether the run ends with a page on what was chosen and why, with what the models find in some
            images: ``<work dir>/coreset_report/index.html``, see ``mmacs report coreset``. Defaults to False.
        **others: Refused, with a hint at the group that a setting belongs to.

    Raises:
        MmacsError: If a setting is unknown or out of range.
    """

    priority = 'VERY_HIGH'  # before the timer starts, so that iterations aren't charged for a round

    def __init__(
        self,
        scorer: Group = None,
        importance: Group = None,
        selector: Group = None,
        constraints: Group = None,
        schedule: Group = None,
        cost: Union[Group, str] = None,
        scoring: Group = None,
        unbiased: Optional[Union[bool, float]] = None,
        cache_dir: Optional[str] = None,
        preset: str = presets.DEFAULT,
        report: bool = False,
        **others: Any,
    ) -> None:
        require_switch('report', report)
        self.preset = preset
        self.report = report
        self._before_presets = False
        groups = dict(importance=importance, selector=selector, constraints=constraints, schedule=schedule, cost=cost)
        self._given = dict(groups, scorer=scorer, scoring=scoring, unbiased=unbiased, others=others)
        self.settings: Optional[CoresetSettings] = None  # None: nothing is scored
        if presets.redraws(preset) is None:
            self.settings = CoresetSettings.read(**self._given, preset=preset)
        else:
            check_settings(**self._given)
            if report:
                raise MmacsError(f'preset {preset!r} scores nothing: there is nothing to report, leave out report=True')
        if cache_dir is not None and (not isinstance(cache_dir, (str, Path)) or not str(cache_dir)):
            raise MmacsError(f'cache_dir must be the name of a folder, got {cache_dir!r}')
        self.cache_dir = cache_dir
        self._resumed: Optional[Dict[str, Any]] = None
        self._run: Optional[CoresetRun] = None

    @property
    def run(self) -> Optional[CoresetRun]:
        """The coreset of the run; None before it trains, and where nothing is scored."""
        return self._run

    def before_run(self, runner: Runner) -> None:
        """Has a resumed run follow its config, and what is random depend on the seed and the step alone."""
        require_whole_evaluation(runner)
        follow_config(runner)
        draw_by_step(runner)
        keep_dynamic_thresholds(runner)
        summarise_now(runner)

    def summary(self, runner: Runner) -> Dict[str, str]:
        """Returns rows of :class:`~mmacs.hooks.summary_hook.SummaryHook`."""
        sampler = coreset_sampler(runner) if isinstance(runner._train_loop, BaseLoop) else None
        if sampler is None:
            return {}
        by_epoch = not isinstance(runner.train_loop, IterBasedTrainLoop)
        end = runner.max_epochs if by_epoch else runner.max_iters
        images, unit = len(sampler.dataset), 'epoch' if by_epoch else 'iteration'
        rows = {'chosen by': self._explanation()}
        scored = 'nothing is scored'
        if self.settings is not None:
            times = self.settings.schedule.over(end).times(end)
            begins = ', '.join([*(str(time + 1) for time in times[:10]), *(['...'] if len(times) > 10 else [])])
            rows['rounds'] = f'{len(times)}, before {unit}{"s" if len(times) > 1 else ""} {begins}'
            later = round((len(times) - 1) * self.settings.cost.rescore * images)
            scored = f'rounds score at most {images + later} images; seconds are predicted in the first one'
        rows['cost'] = f'{100 * sampler.fraction:.3g} % of the steps of training on all images; {scored}'
        return rows

    def _explanation(self) -> str:
        if self.settings is None:
            return presets.explain(self.preset)
        own = presets.preset(self.preset, self.settings.scorer.kind)
        changed = presets.changes(own, {name: self._given[name] for name in presets.GROUPS})
        return f'{presets.explain(self.preset)}{f" The config changes of it: {changed}." if changed else ""}'

    def before_train(self, runner: Runner) -> None:
        """Makes the teacher, or takes up a resumed run's coreset."""
        take_work_dir(runner)
        if self.report:
            report_at_end(runner, 'CoresetReportHook')
        require_batches(runner)
        plan_epochs(runner)
        if self.settings is None:
            self._tell_sampler(runner)
            return
        if runner.iter > 0 and self._resumed is None:
            raise MmacsError(
                'cannot resume: the checkpoint was written by a run without CoresetHook, or with a preset that scores '
                'nothing'
            )
        self._run = CoresetRun(runner, self._settings_of(runner), self.cache_dir)
        self._run.start(self._resumed if runner.iter > 0 else None)
        add_to_time_left(runner, self._run.engine.seconds_to_come)
        self._resumed = None

    def _settings_of(self, runner: Runner) -> CoresetSettings:
        """Returns the settings, and explains them; of a run that began before there were presets, those of then."""
        state = self._resumed if runner.iter > 0 else None
        self._before_presets = isinstance(state, dict) and 'preset' not in state and self.preset == presets.DEFAULT
        if self._before_presets:
            runner.logger.warning(
                'The checkpoint was written before CoresetHook had presets: where the config says nothing, the run '
                f'goes on with the defaults of then (mmacs.TopK), not with preset={presets.DEFAULT!r}.'
            )
            return CoresetSettings.read(**self._given, before_presets=True)
        return self.settings

    def _tell_sampler(self, runner: Runner) -> None:
        """Has the sampler show what a preset without scores says."""
        sampler = require_coreset_sampler(runner)
        agree_on_seed(runner, sampler)
        if self.preset == 'full' and sampler.size < len(sampler.dataset):
            raise MmacsError(
                f"preset 'full' trains on all images, and train_dataloader.sampler.fraction is {sampler.fraction!r}: "
                f'set it to 1, by which learning rates are scheduled'
            )
        sampler.redraw = presets.redraws(self.preset)
        unused = [name for name in presets.GROUPS if self._given[name] is not None]
        if unused:
            trim = (self._given['constraints'] or {}).get('trim')
            hint = " To leave out what looks wrongly annotated take preset='rs2-trim'." if trim else ''
            runner.logger.warning(
                f'Preset {self.preset!r} scores nothing, and has no use for {", ".join(unused)}.{hint}'
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Holds a round, or draws again, if that is due; an iteration-based loop does so by itself."""
        if self._run is not None and self._run.by_epoch:
            self._run.hold_round_if_due()
            self._run.begin(runner.epoch)
            self._run.start_clock()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Hooks the forward, where training gives scores or losses are weighted."""
        if self.settings is None:
            return
        if not isinstance(data_batch, dict) or 'data_samples' not in data_batch:
            raise MmacsError('train_dataloader gives no data_samples: does its pipeline end with PackDetInputs?')
        self._run.hook_forward(data_batch['data_samples'])

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Optional[Dict[str, Any]] = None
    ) -> None:
        """Takes the scores that the iteration gave; counts images and seconds."""
        if self._run is None:
            return
        self._run.count_images()
        if not self._run.by_epoch:
            self._run.stop_clock()
        self._run.unhook_forward(complete=saves_checkpoint_now(runner))

    def after_train_epoch(self, runner: Runner, metrics: Optional[Dict[str, float]] = None) -> None:
        """Adds up the seconds of training; completes the state, since a checkpoint may follow."""
        if self._run is not None and self._run.by_epoch:
            self._run.stop_clock()
            self._run.flush()

    def before_val(self, runner: Runner) -> None:
        """Completes the state, since a checkpoint of the best weights may follow."""
        if self._run is not None:
            self._run.flush()

    def after_train(self, runner: Runner) -> None:
        """Says where the time went."""
        if self._run is not None:
            self._run.finish()

    def after_run(self, runner: Runner) -> None:
        """Lets other runs into the work dir."""
        leave_work_dir(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Puts scores and coreset into the checkpoint, as tensors and plain values."""
        if self._run is None:
            return
        if get_world_size() == 1:
            self._run.flush()
        checkpoint[STATE_KEY] = self._run.state_dict()
        if not self._before_presets:  # so that it is resumed once more as it was now
            checkpoint[STATE_KEY]['preset'] = self.preset

    def after_load_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Keeps the state of a checkpoint until it is known whether the run is resumed."""
        self._resumed = checkpoint.get(STATE_KEY)
