"""Conducts a run's coreset: when to score, what the scores are worth, which images are next."""

import logging
import time
from typing import Any, Dict, Mapping, NamedTuple, Optional, Sequence, Union

import numpy as np
from mmengine.dist import all_gather_object
from mmengine.logging import print_log
from torch import nn

from mmacs.coreset.budget.prediction import Extent, Plan
from mmacs.coreset.data import TrainingData
from mmacs.coreset.pricing import Pricing
from mmacs.coreset.rounds import due, merge_training_scores
from mmacs.coreset.sampler import CoresetSampler
from mmacs.coreset.scoring.measure import exact_scores, rank_correlations
from mmacs.coreset.scoring.proxy import Proxy
from mmacs.coreset.scoring.scoring_pass import ReadTeacherOutputs, ScoringPass
from mmacs.coreset.scoring.teacher_outputs import TeacherOutputs
from mmacs.coreset.selection.class_spread import whip_saw
from mmacs.coreset.selection.constraints import AUTO
from mmacs.coreset.selection.normalisation import comparable_groups
from mmacs.coreset.selection.selectors import Selection, TopK, digest, top_k
from mmacs.coreset.selection.trimming import noise_counts
from mmacs.coreset.settings import CoresetSettings
from mmacs.coreset.state import CoresetState
from mmacs.utils.clock import seconds_since
from mmacs.utils.errors import MmacsError
from mmacs.utils.random_streams import Purpose, random_stream

Among = Union[slice, np.ndarray]  # all images, or those in a mask, bool, shape (M,)

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

    def draw_candidates(self) -> Optional[np.ndarray]:
        """Returns the images that the next round chooses among, bool, shape (M,); None for all."""
        policy, indices = self.settings.policy, len(self.data.positions)
        count = round(max(self.extent.least, self.state.plan.candidates) * indices)
        if count >= indices:
            return None
        chosen = policy.of_candidates(count / min(self.extent.largest, count)).choose(
            np.zeros(len(self.data)),
            count,
            random_stream(self.sampler.seed, Purpose.CANDIDATES, self.state.round + 1),
            self.state.gaps() + 1,
            self.data.positions,
            self.data.labels if policy.needs_labels else None,
        )
        candidates = np.zeros(len(self.data), dtype=bool)
        candidates[self.data.positions[chosen.indices]] = True
        return candidates

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
        return {**facts, **{name: float(np.mean(values)) for name, values in self._scores().items()}}

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
    def dry_run(self) -> Selection:
        """Returns a choice by made-up scores, so that what cannot be chosen is refused before anything is scored."""
        made_up, candidates = np.linspace(0, 1, len(self.data)), self.draw_candidates()
        equal = dict.fromkeys(self.state.scores, np.zeros(len(self.data), np.float32))
        for among in [slice(None)] if candidates is None else [slice(None), candidates]:
            excluded = self._barred(self._trimmed(equal, among), among)
            for size in (self.extent.largest, self.extent.smallest):
                stream = random_stream(self.sampler.seed, Purpose.CORESET, 0)
                selection = self._choose(made_up, excluded, stream, size)
        return selection

    def importance(self) -> np.ndarray:
        """Returns the importance of each candidate by what is known of it, float64, shape (M,); NaN of other images."""
        return self._spread(self.settings.importance(self._scores(), self.state.beta, self._groups()))

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
            self._say_what_is_equal()
            self._warn_of_whip_saw()
        return None if facts is None else Round(self._facts(facts, before), trained_at)

    def draw(self, number: int) -> Selection:
        """Chooses a coreset from the current scores, the same in all processes, see :meth:`begin`."""
        rng = random_stream(self.sampler.seed, Purpose.CORESET, number)
        importance, excluded = self.importance(), self._barred(self.excluded(), self.state.among)
        selection = self._choose(importance, excluded, rng, self.sampler.size)
        digests = all_gather_object(digest(selection.indices))
        if len(set(digests)) > 1:
            raise MmacsError(f'processes chose different coresets: {digests}')
        policy, positions = self.settings.policy, self.data.positions
        if policy.selector.remembers:
            labels = self.data.labels if policy.needs_labels else None
            self.state.shown = policy.remember(importance, selection, self._shown(), positions, labels, excluded)
        self.state.select(selection, positions)
        return selection

    def excluded(self) -> Optional[np.ndarray]:
        """Returns which images trimming leaves out in this round, bool, shape (M,); None without trimming."""
        return self._trimmed(self.state.scores, self.state.among)

    def suspicion(self) -> Optional[np.ndarray]:
        """Returns how much each candidate looks mislabelled, shape (M,), NaN of other images; None without trimming."""
        found = self.settings.policy.suspicion(self._scores())
        return None if found is None else self._spread(found)

    def _trimmed(self, scores: Mapping[str, np.ndarray], among: Among) -> Optional[np.ndarray]:
        """Returns which of the images in ``among`` are left out as suspicious by these scores of all images."""
        stream = random_stream(self.sampler.seed, Purpose.TRIM, self.state.round + 1)
        found = self.settings.policy.excluded(
            {name: values[among] for name, values in scores.items()}, stream, self._most_trimmed(among)
        )
        if found is None:
            return None
        trimmed = np.zeros(len(self.data), dtype=bool)
        trimmed[among] = found
        return trimmed

    def _most_trimmed(self, among: Among) -> float:
        """Returns the share of the images in ``among`` that may be left out, so that the largest coreset is whole."""
        among_images = np.zeros(len(self.data), dtype=bool)
        among_images[among] = True
        return 1 - self.extent.largest / np.count_nonzero(among_images[self.data.positions])

    @staticmethod
    def _barred(trimmed: Optional[np.ndarray], among: Among) -> Optional[np.ndarray]:
        """Returns what nothing may choose: what is trimmed, and what is no candidate."""
        if isinstance(among, slice):
            return trimmed
        return ~among if trimmed is None else ~among | trimmed

    def _scores(self) -> Dict[str, np.ndarray]:
        """Returns the scores of the candidates by column."""
        return {name: values[self.state.among] for name, values in self.state.scores.items()}

    def _spread(self, values: np.ndarray) -> np.ndarray:
        """Returns what the candidates have in an array of all images, float64, shape (M,); NaN of the others."""
        found = np.full(len(self.data), np.nan)
        found[self.state.among] = values
        return found

    @property
    def redraws(self) -> bool:
        """Whether each epoch has a coreset of its own."""
        return self.settings.policy.redraw or self.sampler.schedule is not None

    def _choose(
        self, importance: np.ndarray, excluded: Optional[np.ndarray], rng: np.random.Generator, size: int
    ) -> Selection:
        policy = self.settings.policy
        return policy.choose(
            importance,
            size,
            rng,
            self.state.gaps(),
            self.data.positions,
            self.data.labels if policy.needs_labels else None,
            excluded,
            self._shown(),
        )

    def _shown(self) -> Optional[np.ndarray]:
        """Returns what the selector has shown, bool, shape (N,); None if it doesn't remember."""
        if not self.settings.policy.selector.remembers:
            return None
        return np.zeros(len(self.data.positions), dtype=bool) if self.state.shown is None else self.state.shown

    def _groups(self, among: Optional[np.ndarray] = None) -> Optional[np.ndarray]:
        """Returns the images whose scores are brought to scale among themselves, int64; None: all.

        Args:
            among (np.ndarray, optional): Positions of the images to group; None groups the candidates.
        """
        among = self.state.among if among is None else among
        counts = self.data.object_counts[among] if self.settings.importance.stratified else None
        # scores from training forwards are aligned instead of ranked by age
        ages = None if self.settings.cost.harvest else self.state.rows['scored_at'][among]
        return comparable_groups(ages, counts)

    def _say_what_is_equal(self) -> None:
        """Logs which columns tell no image from another in this round, and whether importance does."""
        scores, where = self._scores(), f'Round {self.state.round}'
        if len(self.data) == 1:
            return
        equal = [f'{name} ({scores[name][0]:.4g})' for name in self.settings.columns if np.ptp(scores[name]) == 0]
        if equal:
            print_log(f'{where}: the same for all images, and so left out: {", ".join(equal)}.', 'current')
        importance = self.importance()
        if np.nanmax(importance) == np.nanmin(importance):
            print_log(f'{where}: all images are equally important: chance alone chooses.', 'current', logging.WARNING)

    def _warn_of_whip_saw(self) -> None:
        """Warns where top-k alone has bought some classes and left out others."""
        if not isinstance(self.settings.policy.selector, TopK) or not self.data.has_classes:
            return
        positions = self.data.positions
        said = whip_saw(self.data.labels[positions], self.state.selection.indices)
        if said:
            print_log(f'Round {self.state.round}: {said}.', 'current', logging.WARNING)

    def _facts(self, found: Dict[str, float], before: Optional[np.ndarray]) -> Dict[str, float]:
        """Returns what a person sees of a round."""
        size, chosen = self.sampler.size, self.sampler.indices
        fraction = self.sampler.fraction if self.sampler.schedule is None else size / len(self.data.positions)
        facts: Dict[str, float] = {'fraction': fraction, 'images': size}
        if before is not None:
            facts['overlap'] = len(np.intersect1d(before, chosen)) / size
        facts.update(found)
        excluded = self.excluded()
        if excluded is not None:
            facts['trimmed'] = int(excluded.sum())
            if self.settings.policy.constraints.trim == AUTO:
                facts['wrong_share'] = excluded[self.state.among].mean()
        facts.update(self._facts_of_selector(self._barred(excluded, self.state.among)))
        if self.data.noisy.any():
            held = np.zeros(len(self.data), dtype=bool)
            held[self.data.positions[chosen]] = True
            facts.update(noise_counts(held, self.data.noisy, excluded, self.state.candidates))
        return facts

    def _facts_of_selector(self, excluded: Optional[np.ndarray]) -> Dict[str, float]:
        positions = self.data.positions
        chosen = np.zeros(len(positions), dtype=bool)
        chosen[self.sampler.indices] = True
        free = slice(None) if excluded is None else ~excluded[positions]
        return self.settings.policy.selector.facts(self.importance()[positions][free], chosen[free])

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
