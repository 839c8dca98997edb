"""What coreset selection costs, predicted from measured seconds per image, and the plan that a budget affords."""

import math
from dataclasses import dataclass, replace
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from mmacs.utils.checks import is_number
from mmacs.utils.errors import MmacsError

_RESCORES = (1.0, 0.5, 0.25, 0.1)
_INTERVALS = (1, 2, 3, 4, 6, 8)  # multiples; beyond, the coreset is all but static
_WIDER = (1, 2, 4)  # where there is no budget
_CANDIDATES = (4, 2)  # times the coreset
_HALF = 0.5
_WORTHWHILE = 0.9  # bfloat16 has to take less than this share of float32's seconds


@dataclass(frozen=True)
class Costs:
    """Seconds of wall time per image, of all processes together.

    Args:
        score (float): Scoring by the quantized model at full resolution, once warm, above 0.
        teacher (float): The teacher's outputs at full resolution. 0 where no column needs the teacher.
        step (float, optional): Training on an image. Until it was measured (None), it is taken as three forward
            passes, since a backward pass costs about two.
        forward (float, optional): A forward pass alone; None takes ``score``, which is a little more.
        bfloat16 (float, optional): Seconds of scoring in bfloat16 over those in float32; None where it is no
            alternative.
    """

    score: float
    teacher: float
    step: Optional[float] = None
    forward: Optional[float] = None
    bfloat16: Optional[float] = None

    @property
    def usable(self) -> bool:
        """Whether they are what a clock that works can give."""
        optional = (self.step, self.forward, self.bfloat16)
        given = [self.score, self.teacher, *(one for one in optional if one is not None)]
        return self.score > 0 and all(0 <= one < math.inf for one in given)

    @property
    def train(self) -> float:
        """Seconds of training on an image, measured or assumed."""
        forward = self.score if self.forward is None else self.forward
        return 3 * forward if self.step is None else self.step


@dataclass(frozen=True)
class Work:
    """How many images are scored and trained on.

    Args:
        images (int): Distinct images in the data set, M.
        trained (int): Images still to train on, counted each time: S N per epoch left.
        full (int): Images that training on all data would take from start to end: N per epoch.
        left (int): Epochs left (iterations, if intervals are counted in them) in which rounds are held, above 0.
        coreset (float): Share of the images in a coreset, S, above 0 and at most 1. Defaults to 1.
        least (float): Share of the images that candidates are at least, in [0, 1]. Defaults to 0.
        first (bool): Whether the first round comes now; otherwise one was just held. Defaults to True.
        scored (float): Share of the images that have scores, in [0, 1]. Defaults to 0.
        taught (float): Share of the images whose teacher outputs are at hand, in [0, 1]. Defaults to 0.
    """

    images: int
    trained: int
    full: int
    left: int
    coreset: float = 1.0
    least: float = 0.0
    first: bool = True
    scored: float = 0.0
    taught: float = 0.0


@dataclass(frozen=True)
class Extent:
    """How long a run is. Times are epochs, or iterations in an iteration-based loop.

    Args:
        end (int): When it ends.
        per_unit (int): Images trained on per epoch or iteration, in all processes; the mean where epochs differ.
        size (int): Images in the coreset, in the mean.
        indices (int): Length of the data set.
        images (int): Distinct images in it.
        sizes (Sequence[int], optional): Images in each epoch, where they differ.
        trimmed (float): Greatest share of the candidates that trimming leaves out, at least 0 and below 1. Defaults to
            0.
    """

    end: int
    per_unit: int
    size: int
    indices: int
    images: int
    sizes: Optional[Sequence[int]] = None
    trimmed: float = 0.0

    def trained_from(self, now: int) -> int:
        """Returns the images that the run trains on from a time on, counted each time."""
        return self.per_unit * (self.end - now) if self.sizes is None else sum(self.sizes[now:])

    @property
    def coreset(self) -> float:
        """Share of the data set in the coreset, in the mean."""
        return self.size / self.indices

    @property
    def largest(self) -> int:
        """Images in the largest coreset."""
        return self.size if self.sizes is None else max(self.sizes)

    @property
    def smallest(self) -> int:
        """Images in the smallest coreset."""
        return self.size if self.sizes is None else min(self.sizes)

    @property
    def least(self) -> float:
        """Share of the data set that candidates are at least, so that trimming leaves the largest coreset."""
        return min(1.0, math.ceil(self.largest / (1 - self.trimmed)) / self.indices)


class Plan(NamedTuple):
    """How often, how many and how large images are scored, and how exactly."""

    interval: int  # epochs (or iterations) between rounds
    rescore: float = 1.0  # share of the candidates that a round after the first scores
    resolution: float = 1.0  # factor on the images' sides
    candidates: float = 1.0  # share of the images that a round chooses among
    precision: str = 'float32'

    @property
    def age(self) -> float:
        """Mean age of the candidates' scores, in the unit of the interval.

        A share ``rescore`` of the rounds in which an image is a candidate takes its score anew.
        """
        return self.interval / 2 * (1 + (1 / self.rescore - 1) / self.candidates) if self.rescore else math.inf


class Spent(NamedTuple):
    """Seconds that a run has already taken."""

    selection: float = 0.0
    training: float = 0.0


NOTHING = Spent()


class Prediction(NamedTuple):
    """Seconds that a run takes in all."""

    selection: float
    training: float
    full: float  # training on all images, without selection
    measured: bool  # whether the cost of a training step was measured

    @property
    def total(self) -> float:
        """Seconds of selection and training."""
        return self.selection + self.training

    @property
    def too_long(self) -> bool:
        """Whether training on all images would be over sooner."""
        return self.total > self.full

    @property
    def share(self) -> float:
        """Selection's share of the total, in [0, 1]."""
        return self.selection / self.total if self.total else 0.0


class Choice(NamedTuple):
    """A plan, what it is predicted to cost, and whether that is within the budget."""

    plan: Plan
    prediction: Prediction
    fits: bool
    asked: Optional[Tuple[Plan, Prediction]] = None  # the same of what was asked for, where a budget decided


def predict(costs: Costs, work: Work, plan: Plan, spent: Spent = NOTHING) -> Prediction:
    """Predict what a run takes.

    A round follows after each interval, the first one at once where none was held yet. It chooses among candidates that
    are drawn evenly, scores all of them that have no scores, at least the plan's share of them, and has the teacher see
    those that it has not seen: of q M candidates, ``(1 - q)^j`` of what was unknown before the first of these rounds
    is still unknown in the one after j others. Both models see images of the plan's resolution, at a cost in
    proportion to their area.

    Args:
        costs (Costs): Measured costs.
        work (Work): What is to be done, from now on.
        plan (Plan): The plan from now on.
        spent (Spent): What the run has taken so far. Defaults to nothing.

    Returns:
        Prediction: Of the whole run, what was spent included.
    """
    pace = plan.resolution**2
    if plan.precision == 'bfloat16' and costs.bfloat16 is not None:
        pace *= costs.bfloat16
    rounds = math.ceil(work.left / plan.interval) - (not work.first)
    unknown = (1 - plan.candidates) ** np.arange(rounds)
    scored = float(np.maximum(plan.rescore, (1 - work.scored) * unknown).sum())
    taught = float((1 - work.taught) * unknown.sum())
    return Prediction(
        selection=spent.selection
        + pace * plan.candidates * work.images * (scored * costs.score + taught * costs.teacher),
        training=spent.training + work.trained * costs.train,
        full=work.full * costs.train,
        measured=costs.step is not None,
    )


def check_budget(budget: float) -> None:
    """Raises an :class:`~mmacs.utils.errors.MmacsError` unless this is a share above 0 and below 1."""
    if not is_number(budget) or not 0 < budget < 1:
        raise MmacsError(
            f"budget must be a share of the wall time above 0 and below 1, such as 0.05, or 'auto', got {budget!r}"
        )


def choose_plan(costs: Costs, work: Work, asked: Plan, budget: float, spent: Spent = NOTHING) -> Choice:
    """Find the plan of best scores whose selection stays within a share of the wall time.

    A plan may differ from the one that was asked for by longer intervals (up to 8 times), a smaller share of the
    candidates scored per round (0.5, 0.25, 0.1; stalest first), and fewer candidates (4 times the coreset). The first
    that fits is taken, in this order:

    1. the one whose scores are youngest in the mean;
    2. of equal age the one that chooses among more images, in float32 rather than bfloat16 (where that was measured
       to be faster), at the shorter interval;
    3. after all these, those with only 2 times the coreset as candidates, which leaves little to choose;
    4. at last all that at half the resolution, at a quarter of the cost: small objects go and every score says
       something else.

    During a run resolution and precision stay, since scores of two kinds would meet.

    Args:
        costs (Costs): Measured costs.
        work (Work): See :func:`predict`; ``taught`` is of the resolution and precision asked for.
        asked (Plan): What the user asked for, which is tried first; no plan gives better scores.
        budget (float): Greatest share of selection in the total wall time, above 0 and below 1.
        spent (Spent): See :func:`predict`.

    Returns:
        Choice: The plan; if none fits, the cheapest.

    Raises:
        MmacsError: If the budget is out of range.
    """
    check_budget(budget)
    choices = []
    for plan in _plans(asked, work, bfloat16=(costs.bfloat16 or 1) < _WORTHWHILE):
        same_kind = (plan.resolution, plan.precision) == (asked.resolution, asked.precision)
        prediction = predict(costs, work if same_kind else replace(work, taught=0.0), plan, spent)
        choices.append(Choice(plan, prediction, prediction.share <= budget))
    fitting = (choice for choice in choices if choice.fits)
    chosen = next(fitting, None) or min(choices, key=lambda choice: choice.prediction.selection)
    return chosen._replace(asked=choices[0][:2])


def widen_interval(costs: Costs, work: Work, asked: Plan, spent: Spent = NOTHING) -> Choice:
    """Find the least interval with which a run that is under way takes no longer than training on all images.

    Args:
        costs (Costs): Measured costs.
        work (Work): See :func:`predict`.
        asked (Plan): What the user asked for; its interval is tried first, then twice and 4 times as long.
        spent (Spent): See :func:`predict`.

    Returns:
        Choice: The plan; if none is enough, the one of the longest interval.
    """
    plans = [asked._replace(interval=multiple * asked.interval) for multiple in _WIDER]
    choices = [Choice(plan, predict(costs, work, plan, spent), True) for plan in plans]
    return next((choice for choice in choices if not choice.prediction.too_long), choices[-1])


def _plans(asked: Plan, work: Work, bfloat16: bool) -> List[Plan]:
    """All plans in order of preference, the one asked for first."""
    rescores = [asked.rescore, *(share for share in _RESCORES if share < asked.rescore)]
    # without scoring no other candidates
    fewer = {max(work.least, times * work.coreset): None for times in _CANDIDATES if asked.rescore > 0}
    sets = [asked.candidates, *(share for share in fewer if share < asked.candidates)]
    resolutions = [asked.resolution] + ([_HALF] if asked.resolution > _HALF and work.first else [])
    precisions = [asked.precision] + (['bfloat16'] if bfloat16 and work.first else [])
    enough = min(asked.candidates, _CANDIDATES[0] * work.coreset)

    def preference(plan: Plan) -> Tuple:
        few = plan.candidates < enough
        precision = precisions.index(plan.precision)
        return plan.resolution < asked.resolution, few, plan.age, -plan.candidates, precision, plan.interval

    plans = (
        Plan(multiple * asked.interval, rescore, resolution, candidates, precision)
        for multiple in _INTERVALS
        for rescore in rescores
        for resolution in resolutions
        for candidates in sets
        for precision in precisions
    )
    return sorted(plans, key=preference)


def require_cheaper(prediction: Prediction, force: bool = False) -> None:
    """Refuse a run that would take longer than training on all images.

    Args:
        prediction (Prediction): Of the run.
        force (bool): Whether the user wants it nevertheless. Defaults to False.

    Raises:
        MmacsError: If the predicted total is above that of full training and ``force`` is not set.
    """
    if not prediction.too_long or force:
        return
    assumed = '' if prediction.measured else ', a training step taken as three forward passes'
    raise MmacsError(
        f'selection would take {prediction.selection:.1f} s and training {prediction.training:.1f} s, more than the '
        f'{prediction.full:.1f} s of training on all images{assumed}: raise interval, lower fraction or rescore, or '
        f'set force=True'
    )
