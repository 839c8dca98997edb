"""What coreset selection costs, predicted from measured seconds per image, and the plan that a budget affords."""

import math
from dataclasses import dataclass
from typing import Iterator, NamedTuple, Optional, Sequence

from mmacs.utils.checks import is_number
from mmacs.utils.errors import MmacsError

_RESCORES = (1.0, 0.5, 0.25, 0.1)
_INTERVALS = (1, 2, 4)  # multiples; beyond, the coreset is all but static
_HALF = 0.5


@dataclass(frozen=True)
class Costs:
    """Seconds of wall time per image, of all processes together.

    Args:
        score (float): Scoring by the quantized model at full resolution, once warm, above 0.
        teacher (float): The teacher's outputs at full resolution. 0 where no column needs the teacher.
        step (float, optional): Training on an image. Until it was measured (None), it is taken as three forward
            passes, since a backward pass costs about two.
        forward (float, optional): A forward pass alone; None takes ``score``, which is a little more.
    """

    score: float
    teacher: float
    step: Optional[float] = None
    forward: Optional[float] = None

    @property
    def usable(self) -> bool:
        """Whether they are what a clock that works can give."""
        given = [one for one in (self.score, self.teacher, self.step, self.forward) if one is not None]
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
        images (int): Distinct images that a round scores at most, N.
        trained (int): Images still to train on, counted each time: S N per epoch left.
        full (int): Images that training on all data would take from start to end: N per epoch.
        left (int): Epochs left (iterations, if intervals are counted in them) in which rounds are held, above 0.
    """

    images: int
    trained: int
    full: int
    left: int


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
    """

    end: int
    per_unit: int
    size: int
    indices: int
    images: int
    sizes: Optional[Sequence[int]] = None

    def trained_from(self, now: int) -> int:
        """Returns the images that the run trains on from a time on, counted each time."""
        return self.per_unit * (self.end - now) if self.sizes is None else sum(self.sizes[now:])


class Plan(NamedTuple):
    """How often, how many and how large images are scored."""

    interval: int  # epochs (or iterations) between rounds
    rescore: float = 1.0  # share of the images that a round after the first scores
    resolution: float = 1.0  # factor on the images' sides


class Spent(NamedTuple):
    """Seconds that a run has already taken."""

    selection: float
    training: float


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


def predict(costs: Costs, work: Work, plan: Plan, cached: bool = False, spent: Optional[Spent] = None) -> Prediction:
    """Predict what a run takes.

    Before the run (``spent`` is None) the first round, at once, scores all images, and the teacher sees all images
    unless its outputs are cached. During the run that round is among what was spent, and predicting is right after a
    round. Either way a further round follows after each interval. Both models see images of the plan's
    resolution, at a cost in proportion to their area.

    Args:
        costs (Costs): Measured costs.
        work (Work): What is to be done, from now on.
        plan (Plan): The plan from now on.
        cached (bool): Whether the teacher's outputs at the plan's resolution are cached. Defaults to False.
        spent (Spent, optional): What the run has taken so far.

    Returns:
        Prediction: Of the whole run, what was spent included.
    """
    area = plan.resolution**2
    first = area * work.images * (costs.score + (0 if cached else costs.teacher))
    before = spent or Spent(first, 0.0)
    rounds = math.ceil(work.left / plan.interval) - 1
    return Prediction(
        selection=before.selection + rounds * plan.rescore * area * work.images * costs.score,
        training=before.training + work.trained * costs.train,
        full=work.full * costs.train,
        measured=costs.step is not None,
    )


def check_budget(budget: float) -> None:
    """Raises an :class:`~mmacs.utils.errors.MmacsError` unless this is a share above 0 and below 1."""
    if not is_number(budget) or not 0 < budget < 1:
        raise MmacsError(f'budget must be a share of the wall time above 0 and below 1, such as 0.05, got {budget!r}')


def choose_plan(
    costs: Costs, work: Work, asked: Plan, budget: float, cached: bool = False, spent: Optional[Spent] = None
) -> Choice:
    """Find the plan of most exact scores whose selection stays within a share of the wall time.

    Plans are tried in this order, and the first that fits is taken:

    1. the plan that was asked for, then with a smaller share of the images scored per round (0.5, 0.25, 0.1),
       stalest first: the coreset still changes as often, and each score is exact when it is taken;
    2. the same with intervals twice and four times as long: a score grows old, but an old score was exact once;
    3. all that at half the resolution, at a quarter of the cost: the last resort, since small objects go and every
       score says something else. Not during a run, where scores of two resolutions would meet.

    Args:
        costs (Costs): Measured costs.
        work (Work): See :func:`predict`.
        asked (Plan): What the user asked for; no plan gives more exact scores.
        budget (float): Greatest share of selection in the total wall time, above 0 and below 1.
        cached (bool): Whether the teacher's outputs are cached at the resolution asked for. Defaults to False.
        spent (Spent, optional): See :func:`predict`.

    Returns:
        Choice: The plan; if none fits, the cheapest.

    Raises:
        MmacsError: If the budget is out of range.
    """
    check_budget(budget)
    choices = []
    for plan in _plans(asked, during_run=spent is not None):
        prediction = predict(costs, work, plan, cached and plan.resolution == asked.resolution, spent)
        choices.append(Choice(plan, prediction, prediction.share <= budget))
    fitting = (choice for choice in choices if choice.fits)
    return next(fitting, None) or min(choices, key=lambda choice: choice.prediction.selection)


def widen_interval(
    costs: Costs, work: Work, asked: Plan, cached: bool = False, spent: Optional[Spent] = None
) -> Choice:
    """Find the least interval with which a run that is under way takes no longer than training on all images.

    Args:
        costs (Costs): Measured costs.
        work (Work): See :func:`predict`.
        asked (Plan): What the user asked for; its interval is tried first, then twice and four times as long.
        cached (bool): See :func:`predict`.
        spent (Spent, optional): See :func:`predict`.

    Returns:
        Choice: The plan; if none is enough, the one of the longest interval.
    """
    plans = [asked._replace(interval=multiple * asked.interval) for multiple in _INTERVALS]
    choices = [Choice(plan, predict(costs, work, plan, cached, spent), True) for plan in plans]
    return next((choice for choice in choices if not choice.prediction.too_long), choices[-1])


def _plans(asked: Plan, during_run: bool) -> Iterator[Plan]:
    """All plans in order of preference, the one asked for first."""
    rescores = [asked.rescore, *(share for share in _RESCORES if share < asked.rescore)]
    resolutions = [asked.resolution] + ([_HALF] if asked.resolution > _HALF and not during_run else [])
    for resolution in resolutions:
        for multiple in _INTERVALS:
            for rescore in rescores:
                yield Plan(multiple * asked.interval, rescore, resolution)


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
