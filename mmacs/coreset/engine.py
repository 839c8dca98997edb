"""Conducts a run's coreset: when to score, what the scores are worth, which images are next."""

import logging
import time
from typing import Any, Dict, NamedTuple, Optional, Sequence

import numpy as np
from mmengine.dist import all_gather_object
from mmengine.logging import print_log
from torch import nn

from mmacs.coreset.budget.prediction import Extent, Plan
from mmacs.coreset.data import TrainingData
from mmacs.coreset.draws import Draws
from mmacs.coreset.old_checkpoints import without_disagreement
from mmacs.coreset.pricing import Pricing
from mmacs.coreset.round_facts import remarks, round_facts
from mmacs.coreset.rounds import due, merge_training_scores
from mmacs.coreset.sampler import CoresetSampler
from mmacs.coreset.scoring.measure import exact_scores, rank_correlations
from mmacs.coreset.scoring.proxy import Proxy
from mmacs.coreset.scoring.scoring_pass import ReadTeacherOutputs, ScoringPass
from mmacs.coreset.scoring.teacher_outputs import TeacherOutputs
from mmacs.coreset.selection.selectors import Selection, digest, top_k
from mmacs.coreset.settings import CoresetSettings
from mmacs.coreset.state import CoresetState
from mmacs.utils.clock import seconds_since
from mmacs.utils.errors import MmacsError
from mmacs.utils.random_streams import Purpose, random_stream

PROXY_IMAGES = 256  # that proxy scores are compared with exact ones on


class Round(NamedTuple):
    """What a round found and chose."""

    facts: Dict[str, float]  # for the log and as scalars
    trained_at: np.ndarray  # round of the last coreset that held each image before this one, -1 for never, (M,)


class CoresetEngine:
    """Scores images in rounds and draws coresets from what is known of them.

    Args:
        settings (CoresetSettings): What the config says.
        data (TrainingData): The training images.
        scoring (ScoringPass): How images are brought to the models, at full resolution and precision.
        sampler (CoresetSampler): What gets the coresets; the seed of all draws is its own.
        end (int): When the run ends, in epochs or iterations.
        per_unit (int): Images trained on per epoch or iteration, in all processes.
        teacher (TeacherOutputs, optional): Where the teacher's outputs come from, if a column needs them.

    Attributes:
        state (CoresetState): All that changes.

    Raises:
        MmacsError: If the run leaves no time for a round.
    """

    def __init__(
        self,
        settings: CoresetSettings,
        data: TrainingData,
        scoring: ScoringPass,
        sampler: CoresetSampler,
        end: int,
        per_unit: int,
        teacher: Optional[TeacherOutputs] = None,
    ) -> None:
        self.settings = settings = settings.over(end)
        self.data = data
        self.sampler = sampler
        self.teacher = teacher  # named once its weights are known
        sizes = None if sampler.sizes is None else sampler.sizes.tolist()
        trimmed = settings.policy.most_trimmed
        self.extent = Extent(end, per_unit, sampler.mean_size, len(data.positions), len(data), sizes, trimmed)
        settings.schedule.check(end)
        if sampler.schedule is not None and settings.schedule.full_data_last:
            raise MmacsError(
                f'full_data_last goes evenly through all data in epochs of one size: leave it out, or give '
                f'fraction={sampler.fraction:g} in the place of {sampler.schedule}'
            )
        plan = settings.cost.plan(settings.schedule, self.extent)
        self.state = CoresetState(len(data), settings.columns, plan, settings.schedule.warmup)
        self._asked = self.state.plan
        self._exact = scoring
        self._draws = Draws(settings, data, sampler, self.extent, self.state)
        self._pricing = Pricing(settings, self.extent, self.state)
        self._round_seconds: Optional[float] = None  # of a round after the first
        self._undrawn: Optional[Dict[str, float]] = None  # facts of a round that no coreset was drawn from yet

    # ---------------------------------------------------------------- when
    def sweeps(self, now: int) -> bool:
        """Returns whether training goes through all data now."""
        return self.settings.schedule.sweeps(now, self.extent.end)

    def is_due(self, now: int) -> bool:
        """Returns whether a round is due."""
        return self.settings.schedule.due(now, self.state.next_round, self.state.round + 1, self.extent.end)

    def awaits_round(self) -> bool:
        """Returns whether there will be another round."""
        return self.settings.schedule.awaits(self.state.next_round, self.state.round + 1, self.extent.end)

    def stays_until(self) -> int:
        """Returns the epoch or iteration at which the coreset of this round ends."""
        last = self.settings.schedule.last(self.extent.end)
        return min(last, self.state.next_round) if self.awaits_round() else last

    def seconds_to_come(self) -> float:
        """Returns what the rounds to come will take if they take as long as the last one; 0 before the first one."""
        state, held = self.state, self.state.round + 1
        left = self.settings.schedule.rounds_left(state.next_round, state.plan.interval, held, self.extent.end)
        if self._round_seconds is None:  # a resumed run knows what all of them took
            return left * state.progress.selection_seconds / held if held else 0.0
        return left * self._round_seconds

    # ---------------------------------------------------------------- rounds
    @property
    def scoring(self) -> ScoringPass:
        """How images are brought to the models by the present plan."""
        return self._exact.with_proxy(Proxy(self.state.plan.resolution, self.state.plan.precision))

    def hold_round(self, model: nn.Module, now: int) -> None:
        """Scores what is due; the first round measures what that costs before.

        Args:
            model (nn.Module): The quantized model.
            now (int): Epoch or iteration.

        Raises:
            MmacsError: If the run has not trained yet and is predicted to take longer than training on all images.
        """
        start, state, is_first = time.perf_counter(), self.state, self.state.round < 0
        if self.teacher is not None:
            self.teacher.find(self.scoring)
        if is_first:
            self._pricing.measure(self.scoring, model, self.teacher, now, start)
            if self.teacher is not None:
                self.teacher.find(self.scoring)  # the plan may have changed resolution or precision
        positions, read_teacher, teaching = self.next_images(), None, time.perf_counter()
        if self.teacher is not None:
            needed = positions if state.candidates is not None else np.arange(len(self.data))
            read_teacher = self.teacher.fill(self.scoring, needed)
        began = time.perf_counter()
        facts = self.score(model, self.settings.importance.beta_at(now, self.extent.end), positions, read_teacher)
        seconds = seconds_since(began)
        if state.candidates is None:
            self._round_seconds = seconds * (state.plan.rescore if is_first else 1)
        else:  # other candidates need the teacher, too
            self._round_seconds = seconds_since(teaching)
        if is_first and not self.scoring.proxy.exact:
            facts.update(self.compare_proxy(model))
        if self.teacher is not None:
            self.teacher.release()
        facts['seconds'] = seconds_since(start)
        state.progress.selection_seconds += facts['seconds']
        if not is_first and facts['scored']:
            self._pricing.look_ahead(seconds / facts['scored'], self.teacher, now)
        state.next_round = now + state.plan.interval
        beta = {'beta': state.beta} if self.settings.importance.uses_beta else {}
        self._undrawn = {**beta, **facts}

    def next_images(self) -> np.ndarray:
        """Draws the candidates of the next round; returns which of them it scores, positions, int64, ascending."""
        state, seed = self.state, self.sampler.seed
        state.candidates = self.draw_candidates()
        return due(state, state.plan.rescore, self.settings.training_columns, seed)

    def score(
        self, model: nn.Module, beta: float, positions: np.ndarray, read_teacher: Optional[ReadTeacherOutputs]
    ) -> Dict[str, float]:
        """Scores the images of a new round.

        Args:
            model (nn.Module): The quantized model.
            beta (float): Weight of the error score from now on.
            positions (np.ndarray): From :meth:`next_images`.
            read_teacher (Callable, optional): Reads the teacher's outputs.

        Returns:
            Dict[str, float]: Facts for the log: ``candidates`` if they are not all images, ``scored``, the mean of each
            column over the candidates, and for columns that training forwards gave ``harvest_<column>``, their rank
            correlation with exact scores.
        """
        state, settings = self.state, self.settings
        state.round, state.beta = state.round + 1, beta
        scores = self.scoring.scores(settings.scorer, model, positions, settings.scored_columns, read_teacher)
        state.record(positions, scores)
        found = merge_training_scores(state, positions, scores, settings.training_columns, state.plan.rescore)
        facts: Dict[str, float] = {'scored': len(positions)}
        if state.candidates is not None:
            facts['candidates'] = int(state.candidates.sum())
        facts.update({f'harvest_{column}': one.correlation for column, one in found.items() if one.pairs})
        return {**facts, **{name: float(np.mean(values)) for name, values in self._draws.scores().items()}}

    def compare_proxy(self, model: nn.Module, num_images: int = PROXY_IMAGES) -> Dict[str, float]:
        """Compares the scores of this round, taken at less than full cost, with exact ones on a few images.

        Args:
            model (nn.Module): The quantized model.
            num_images (int): Images to compare.

        Returns:
            Dict[str, float]: Per column ``proxy_<column>``, Spearman's rank correlation, and ``proxy_overlap``, the
            share of their most important images that both have.
        """
        columns, importance = self.settings.scored_columns, self.settings.importance
        order = random_stream(self.sampler.seed, Purpose.PROXY_CHECK).permutation(len(self.data))
        chosen = np.sort(order[self.state.rows['scored_at'][order] >= 0][:num_images])
        teacher = None if self.teacher is None else self.teacher.model()
        exact = exact_scores(self._exact, self.settings.scorer, columns, model, teacher, chosen)
        proxy = {name: self.state.scores[name][chosen] for name in columns}
        facts = {f'proxy_{name}': value for name, value in rank_correlations(proxy, exact).items()}
        if min(facts.values()) < 0.5:
            said = ', '.join(f'{name.removeprefix("proxy_")} {value:.2f}' for name, value in facts.items())
            print_log(
                f'{self.scoring.proxy} hardly gives the scores that resolution=1 and float32 give: rank correlations '
                f'{said}.',
                'current',
                logging.WARNING,
            )
        if set(importance.columns) <= set(columns):
            size = max(1, round(self.sampler.fraction * len(chosen)))
            groups = self._groups(chosen)
            mixed = [importance(scores, self.state.beta, groups) for scores in (exact, proxy)]
            tops = [top_k(one, size) for one in mixed]  # of equal scores the same in both
            facts['proxy_overlap'] = len(np.intersect1d(*tops)) / size
        return facts

    # ---------------------------------------------------------------- draws
    @property
    def redraws(self) -> bool:
        """Whether each epoch has a coreset of its own."""
        return self._draws.redraws

    def draw_candidates(self) -> Optional[np.ndarray]:
        """See :meth:`.draws.Draws.candidates`."""
        return self._draws.candidates()

    def dry_run(self) -> Selection:
        """See :meth:`.draws.Draws.dry_run`."""
        return self._draws.dry_run()

    def importance(self) -> np.ndarray:
        """See :meth:`.draws.Draws.importance`."""
        return self._draws.importance()

    def excluded(self) -> Optional[np.ndarray]:
        """See :meth:`.draws.Draws.excluded`."""
        return self._draws.excluded()

    def suspicion(self) -> Optional[np.ndarray]:
        """See :meth:`.draws.Draws.suspicion`."""
        return self._draws.suspicion()

    def _groups(self, among: Optional[np.ndarray] = None) -> Optional[np.ndarray]:
        return self._draws.groups(among)

    def begin(self, number: int) -> Optional[Round]:
        """Gives the sampler what an epoch or pass of this number is to show, if that changes.

        Args:
            number (int): Number of the epoch or pass, which seeds what is random.

        Returns:
            Round: What there is to report, at the first draw after a round; otherwise None.

        Raises:
            MmacsError: If processes chose different coresets.
        """
        facts, before = self._undrawn, self.sampler.indices
        self.sampler.set_epoch(number)
        if facts is None and not (self.state.selection is not None and self.redraws):
            return None
        start, trained_at = time.perf_counter(), self.state.rows['trained_at'].copy()
        self.draw(number)
        self.sampler.set_indices(self.state.selection.indices)
        self.state.progress.selection_seconds += seconds_since(start)
        self._undrawn = None
        if facts is not None:
            for sentence, level in remarks(self._draws):
                print_log(sentence, 'current', level)
        return None if facts is None else Round(round_facts(self._draws, facts, before), trained_at)

    def draw(self, number: int) -> Selection:
        """Chooses a coreset from the current scores, the same in all processes, see :meth:`begin`."""
        selection, shown = self._draws.coreset(number)
        digests = all_gather_object(digest(selection.indices))
        if len(set(digests)) > 1:
            raise MmacsError(f'processes chose different coresets: {digests}')
        if shown is not None:
            self.state.shown = shown
        self.state.select(selection, self.data.positions)
        return selection

    # ---------------------------------------------------------------- checkpoint
    def state_dict(self) -> Dict[str, Any]:
        """Returns tensors and plain values."""
        return {
            **self.state.state_dict(),
            'seed': self.sampler.seed,
            'asked': list(self._asked),
            'sweep_start': self.sampler.sweep_start,
            'data': self.data.fingerprint,
            'contents': None if self.data.contents is None else self.data.contents.stored,
        }

    def load_state_dict(self, state: Dict[str, Any], now: int) -> None:
        """Takes up the state of a run that is being resumed.

        Args:
            state (Dict[str, Any]): From :meth:`state_dict`.
            now (int): Epoch or iteration at which the run goes on.

        Raises:
            MmacsError: If it is of another data set, other columns or another fraction.
        """
        if self.settings.teacher_alone:
            state = without_disagreement(state)
        self.state.load_state_dict({**state, 'plan': self._whole(state['plan'])})
        if state['data'] != self.data.fingerprint:
            raise MmacsError(
                'cannot resume: names, order or annotations of the training images are not those that they were when '
                'the checkpoint was written'
            )
        contents = state.get('contents')  # checkpoints of mmacs 0.1 have none
        if contents is not None and self.data.contents is not None and contents != self.data.contents.stored:
            raise MmacsError(
                'cannot resume: files of training images have other contents than when the checkpoint was written, so '
                'that its scores are of other images: put the files back, or start a new run from these weights with '
                'load_from'
            )
        self._follow_plan(state.get('asked'))
        if self.sampler.seed != state['seed']:
            print_log(
                f"The run goes on with the seed {state['seed']} of the checkpoint's coreset, not {self.sampler.seed}.",
                'current',
                logging.WARNING,
            )
        self.sampler.seed = state['seed']
        if state['sweep_start'] is not None and self.sweeps(now):
            self.sampler.sweep(state['sweep_start'])
        elif self.state.selection is not None and self.sampler.schedule is None:
            held = len(self.state.selection.indices)
            if held != self.sampler.size:
                raise MmacsError(
                    f"cannot resume with fraction={self.sampler.fraction:g}: the checkpoint's coreset holds {held} "
                    f"images, this config's {self.sampler.size}"
                )
            self.sampler.set_indices(self.state.selection.indices)
            print_log(
                f'Resumed the coreset of round {self.state.round}, digest {digest(self.sampler.indices)}.', 'current'
            )

    def _whole(self, plan: Sequence[Any]) -> Plan:
        """Returns a plan of a checkpoint; earlier versions had shorter ones, and always the precision of the config."""
        missing = len(plan) < len(Plan._fields)
        return Plan(*plan)._replace(precision=self._asked.precision) if missing else Plan(*plan)

    def _follow_plan(self, asked_before: Optional[Sequence[Any]]) -> None:
        """Has a resumed run hold its rounds as its config says, which may be another than the one that it began with.

        Args:
            asked_before (Sequence, optional): The plan that the config of the checkpoint asked for; None in
                checkpoints of mmacs 0.1, where it was that of the run unless a budget changed it.
        """
        state, asked = self.state, self._asked
        if state.round < 0:
            state.next_round = self.settings.schedule.warmup
        if asked_before is None:
            asked_before = asked if self.settings.cost.budget is not None else state.plan
        if self._whole(asked_before) == asked:
            return
        if state.round >= 0:
            state.next_round += asked.interval - state.plan.interval
        state.plan = asked
