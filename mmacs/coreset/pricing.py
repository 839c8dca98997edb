"""Measures what rounds cost, and fits the plan of a run to that."""

import logging
from dataclasses import replace
from typing import Optional, Tuple

import numpy as np
from mmengine.dist import broadcast_object_list
from mmengine.logging import print_log
from torch import nn

from mmacs.coreset.budget.cost import WAYS_OUT, Known, in_words, look_ahead
from mmacs.coreset.budget.prediction import Costs, Extent, Spent
from mmacs.coreset.scoring.measure import measure_costs
from mmacs.coreset.scoring.proxy import Proxy
from mmacs.coreset.scoring.scoring_pass import ScoringPass
from mmacs.coreset.scoring.teacher_outputs import TeacherOutputs
from mmacs.coreset.settings import CoresetSettings
from mmacs.coreset.state import CoresetState
from mmacs.utils.clock import seconds_since


class Pricing:
    """Knows what rounds cost, says what the run is predicted to take, and changes the plan where a budget asks for it.

    Args:
        settings (CoresetSettings): What the config says.
        extent (Extent): How long the run is.
        state (CoresetState): The state of the run; its plan is what is fitted.
    """

    def __init__(self, settings: CoresetSettings, extent: Extent, state: CoresetState) -> None:
        self._settings = settings
        self._extent = extent
        self._state = state
        self._teacher_seconds: Optional[float] = None  # per image at full resolution, None until measured
        self._advised = False  # whether the log has named ways out of dear selection; once is enough

    def measure(
        self, scoring: ScoringPass, model: nn.Module, teacher: Optional[TeacherOutputs], now: int, start: float
    ) -> None:
        """Measures costs on a few images before the first round, and settles the plan.

        Args:
            scoring (ScoringPass): How images are brought to the models by the present plan.
            model (nn.Module): The quantized model.
            teacher (TeacherOutputs, optional): Where the teacher's outputs come from, if a column needs them.
            now (int): Epoch or iteration.
            start (float): When the round began, by ``time.perf_counter()``.

        Raises:
            MmacsError: If the run has not trained yet and is predicted to take longer than training on all images.
        """
        score, self._teacher_seconds, forward = self._seconds_of(scoring, model, teacher)
        costs = self._costs(teacher, score, forward)
        if self._settings.cost.share is not None and self._state.plan.precision == 'float32':
            costs = replace(costs, bfloat16=self._relative_cost_of_bfloat16(scoring, model, teacher, score))
        self._fit(costs, teacher, now, seconds_since(start))

    def look_ahead(self, seconds: float, teacher: Optional[TeacherOutputs], now: int) -> None:
        """Fits the plan again after a round, by what that took.

        Args:
            seconds (float): Of scoring an image in this round.
            teacher (TeacherOutputs, optional): See :meth:`measure`.
            now (int): Epoch or iteration.
        """
        self._fit(self._costs(teacher, seconds / self._state.plan.resolution**2), teacher, now)

    def _seconds_of(
        self, scoring: ScoringPass, model: nn.Module, teacher: Optional[TeacherOutputs], num_batches: int = 3
    ) -> Tuple[float, float, float]:
        """Seconds of scoring, teacher and forward per image, at full resolution."""
        known = None if teacher is None else teacher.read
        runs = teacher.model() if teacher is not None and known is None else None
        settings, area = self._settings, scoring.proxy.resolution**2
        seconds = measure_costs(scoring, settings.scorer, settings.scored_columns, model, runs, known, num_batches)
        return tuple(one / area for one in seconds)

    def _relative_cost_of_bfloat16(
        self, scoring: ScoringPass, model: nn.Module, teacher: Optional[TeacherOutputs], score: float
    ) -> Optional[float]:
        """Returns seconds of scoring in bfloat16 over those in float32, ``score``; None where it cannot be had."""
        scoring = scoring.with_proxy(Proxy(self._state.plan.resolution, 'bfloat16'))
        try:
            return self._seconds_of(scoring, model, teacher, num_batches=1)[0] / score if score > 0 else None
        except RuntimeError as error:  # an operation that knows float32 alone, as DCNs; in all processes, if in one
            print_log(f'Scoring in bfloat16 is no alternative: {" ".join(str(error).split())[:200]}', 'current')
            return None

    def _costs(self, teacher: Optional[TeacherOutputs], score: float, forward: Optional[float] = None) -> Costs:
        """Returns what is known of seconds per image at full resolution."""
        progress, teaching = self._state.progress, self._teacher_seconds
        if teaching is None:  # a resumed run has not measured it; it is as large a network
            teaching = 0.0 if teacher is None else score
        trained = progress.trained_images
        step = progress.training_seconds / trained if trained and progress.training_seconds else None
        return Costs(score, teaching, step, forward)

    def _fit(self, costs: Costs, teacher: Optional[TeacherOutputs], now: int, uncounted: float = 0.0) -> None:
        """Fits the plan to measured costs, and logs what the run is predicted to take.

        Args:
            costs (Costs): At full resolution.
            teacher (TeacherOutputs, optional): See :meth:`measure`.
            now (int): Epoch or iteration.
            uncounted (float): Seconds of selection that :attr:`CoresetState.progress` doesn't hold yet.
        """
        state, cost = self._state, self._settings.cost
        progress = [costs, state.progress.selection_seconds, state.progress.training_seconds, uncounted]
        broadcast_object_list(progress)  # clocks differ between processes; what is decided by them must not
        costs, state.progress.selection_seconds, state.progress.training_seconds, uncounted = progress
        if not costs.usable:
            print_log('The clock gave no times to predict by: what the run takes is not known.', 'current')
            return
        spent = Spent(state.progress.selection_seconds + uncounted, state.progress.training_seconds)
        taught = 1.0 if teacher is None else teacher.share
        known = Known(float(np.mean(state.rows['scored_at'] >= 0)), taught)
        trained = state.progress.trained_images > 0
        before, schedule, held = state.plan, self._settings.schedule, state.round + 1
        choice = look_ahead(cost, schedule, self._extent, costs, before, spent, now, held, trained, known)
        state.plan = choice.plan
        words = in_words(choice, cost.share, self._extent.coreset, advise=not self._advised)
        self._advised = self._advised or WAYS_OUT in words
        print_log(words, 'current', logging.INFO if choice.fits else logging.WARNING)
        if cost.budget is None and choice.plan.interval != before.interval:
            print_log(
                f'Rounds are {choice.plan.interval} apart from now on, not {before.interval}: selection and training '
                f'are not to take longer than training on all images, unless cost=dict(force=True).',
                'current',
                logging.WARNING,
            )
