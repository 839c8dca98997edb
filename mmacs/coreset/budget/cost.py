"""What rounds may cost, and what a run is predicted to take."""

from dataclasses import dataclass
from typing import List, NamedTuple, Optional, Union

from mmacs.coreset.budget.prediction import (
    Choice,
    Costs,
    Extent,
    Plan,
    Spent,
    Work,
    check_budget,
    choose_plan,
    predict,
    require_cheaper,
    widen_interval,
)
from mmacs.coreset.budget.schedule import Schedule
from mmacs.utils.checks import is_number
from mmacs.utils.errors import MmacsError

AUTO = 'auto'
AUTO_BUDGET = 1 / 6
MUCH = 1 / 3  # of the wall time for selection, above which the log names what is cheaper
WAYS_OUT = "CoresetHook's cost='auto' keeps it to a sixth, and its preset='rs2' chooses at random, at no cost"


@dataclass(frozen=True)
class Cost:
    """Settings of what rounds may cost.

    Args:
        rescore (float): Share of the candidates that a round after the first scores, stalest first, in [0, 1]; those
            without scores are scored in any case. Defaults to 1.
        harvest (bool): Whether training forwards give scores too, in the columns where that is sound. Defaults to
            False.
        resolution (float): Factor on the sides of images for scoring, above 0 and at most 1. Defaults to 1.
        precision (str): ``'float32'`` or ``'bfloat16'`` for scoring. Defaults to ``'float32'``.
        candidates (float, optional): Images that each round chooses among, as a multiple of the coreset, at least 1:
            they are drawn at random, classes in proportion where the selector keeps them so, and only they are scored.
            The coreset is what one epoch shows, also where it is drawn anew in each epoch: an interval of R epochs then
            shows a candidate R / ``candidates`` times in the mean. There are as many in any case that trimming leaves
            the largest coreset. None takes all images.
        budget (float or 'auto', optional): Greatest share of the wall time of selection and training for selection,
            such as 0.05: interval, ``rescore``, candidates, precision and resolution are then chosen so that measured
            costs stay within it. ``'auto'`` is 1/6, a fifth of the time of training: a run at a fraction of 0.1 then
            takes 0.12 of training on all images. It goes by the clock, so that runs of one seed may differ. None takes
            them as they are.
        force (bool): Whether to go on as asked where selection and training are predicted to take longer than training
            on all images. Otherwise a run is refused before it trains, and later its interval is widened. Defaults to
            False.

    Raises:
        MmacsError: If a value is out of range.
    """

    rescore: float = 1.0
    harvest: bool = False
    resolution: float = 1.0
    precision: str = 'float32'
    candidates: Optional[float] = None
    budget: Union[float, str, None] = None
    force: bool = False

    def __post_init__(self) -> None:
        if not is_number(self.rescore) or not 0 <= self.rescore <= 1:
            raise MmacsError(f'rescore must be a share of the images, from 0 to 1, got {self.rescore!r}')
        for name in ('harvest', 'force'):
            if not isinstance(getattr(self, name), bool):
                raise MmacsError(f'{name} must be True or False, got {getattr(self, name)!r}')
        if self.candidates is not None and not (is_number(self.candidates) and self.candidates >= 1):
            raise MmacsError(
                f'candidates must be a multiple of the coreset of at least 1, such as 4, or None for all images, got '
                f'{self.candidates!r}'
            )
        if self.budget is not None and self.budget != AUTO:
            check_budget(self.budget)

    @property
    def share(self) -> Optional[float]:
        """Greatest share of the wall time for selection, None for any."""
        return AUTO_BUDGET if self.budget == AUTO else self.budget

    def plan(self, schedule: Schedule, extent: Extent) -> Plan:
        """Returns the plan that was asked for, of a run as long as that."""
        candidates = 1.0
        if self.candidates is not None:
            candidates = min(1.0, max(extent.least, self.candidates * extent.coreset))
        return Plan(schedule.interval, self.rescore, self.resolution, candidates, self.precision)


class Known(NamedTuple):
    """What a run knows of its images already."""

    scored: float = 0.0  # share of the images that have scores, in [0, 1]
    taught: float = 0.0  # share of the images whose teacher outputs are at hand, in [0, 1]


def look_ahead(
    cost: Cost,
    schedule: Schedule,
    extent: Extent,
    costs: Costs,
    plan: Plan,
    spent: Spent,
    now: int,
    held: int,
    trained: bool,
    known: Known,
) -> Choice:
    """Fits the plan to the budget, and sees whether the run is worth its time.

    A run that is not is refused before its first step. What was trained since is not thrown away: then rounds come at
    longer intervals.

    Args:
        cost (Cost): What may be spent.
        schedule (Schedule): When rounds are held.
        extent (Extent): How long the run is.
        costs (Costs): Measured seconds per image.
        plan (Plan): What holds now.
        spent (Spent): Seconds spent so far.
        now (int): Before the first round, or after another one.
        held (int): Rounds held so far.
        trained (bool): Whether the run has trained on anything yet.
        known (Known): What is known of the images.

    Returns:
        Choice: The plan from now on, and its prediction.

    Raises:
        MmacsError: If nothing was trained yet and the run is predicted to take longer than training on all images.
    """
    work = Work(
        images=extent.images,
        trained=extent.trained_from(now if held else 0),
        full=round(extent.per_unit * extent.end / extent.size * extent.indices),
        left=schedule.time_left(now, held, extent.end),
        coreset=extent.coreset,
        least=extent.least,
        first=not held,
        scored=known.scored,
        taught=known.taught,
    )
    if not held:
        spent = spent._replace(training=0.0)  # all of it is in ``trained``
    # during a run they stay: scores of two resolutions or precisions say different things
    kind = {'resolution': plan.resolution, 'precision': plan.precision}
    asked = cost.plan(schedule, extent)._replace(**kind)
    if cost.share is not None:
        choice = choose_plan(costs, work, asked, cost.share, spent)
    elif trained and not cost.force:
        choice = widen_interval(costs, work, asked, spent)
    else:
        choice = Choice(asked, predict(costs, work, asked, spent), True)
    if not trained:
        prediction = choice.prediction  # what is spent already is no reason
        require_cheaper(prediction._replace(selection=prediction.selection - spent.selection), cost.force)
    return choice


def in_words(choice: Choice, budget: Optional[float], coreset: float = 1.0, advise: bool = True) -> str:
    """Returns a sentence or two for the log.

    Args:
        choice (Choice): From :func:`look_ahead`.
        budget (float, optional): The share that it was chosen for.
        coreset (float): Share of the images in a coreset.
        advise (bool): Whether ways out are named where selection is much of the time. Defaults to True.
    """
    prediction = choice.prediction
    basis = 'training steps measured' if prediction.measured else 'a training step taken as three forward passes'
    sentence = (
        f'Predicted in all: selection {prediction.selection:.1f} s and training {prediction.training:.1f} s, '
        f'{prediction.total / prediction.full:.0%} of training on all images ({prediction.full:.1f} s), selection '
        f'{prediction.share:.0%} of the total ({basis}).'
    )
    if budget is None:
        much = prediction.share > MUCH and advise
        return f'{sentence} Selection is much of that: {WAYS_OUT}.' if much else sentence
    asked, before = choice.asked
    changes = _changes(asked, choice.plan, coreset)
    if not changes:
        fits = 'keeps within' if choice.fits else 'is the cheapest, though not within,'
        return f'{sentence} The plan stays as asked, which {fits} budget={budget:.3g}.'
    fits = 'to keep within' if choice.fits else 'the cheapest plan, though not within'
    return (
        f'{sentence} Chosen: {", ".join(changes)}, {fits} budget={budget:.3g}, where what was asked for would take '
        f'{before.selection:.1f} s, {before.share:.0%} of the total.'
    )


def _changes(asked: Plan, plan: Plan, coreset: float) -> List[str]:
    """What a plan has that was not asked for."""

    def written(plan: Plan) -> List[str]:
        candidates = 'all images' if plan.candidates == 1 else f'{plan.candidates / coreset:.3g}'
        shares = f'rescore={plan.rescore:g}', f'resolution={plan.resolution:g}'
        return [f'interval={plan.interval}', f'candidates={candidates}', *shares, f'precision={plan.precision}']

    pairs = zip(written(asked), written(plan))
    return [f'{new} (asked: {old.split("=")[1]})' for old, new in pairs if old != new]
