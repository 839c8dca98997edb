"""What rounds may cost, and what a run is predicted to take."""

from dataclasses import dataclass
from typing import Optional

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


@dataclass(frozen=True)
class Cost:
    """Settings of what rounds may cost.

    Args:
        rescore (float): Share of the images that a round after the first scores, stalest first, in [0, 1]. Defaults to
            1.
        harvest (bool): Whether training forwards give scores too, in the columns where that is sound. Defaults to
            False.
        resolution (float): Factor on the sides of images for scoring, above 0 and at most 1. Defaults to 1.
        precision (str): ``'float32'`` or ``'bfloat16'`` for scoring. Defaults to ``'float32'``.
        budget (float, optional): Greatest share of the wall time for selection, such as 0.05: interval, ``rescore`` and
            resolution are then chosen so that measured costs stay within it. None takes them as they are.
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
    budget: Optional[float] = None
    force: bool = False

    def __post_init__(self) -> None:
        if not is_number(self.rescore) or not 0 <= self.rescore <= 1:
            raise MmacsError(f'rescore must be a share of the images, from 0 to 1, got {self.rescore!r}')
        for name in ('harvest', 'force'):
            if not isinstance(getattr(self, name), bool):
                raise MmacsError(f'{name} must be True or False, got {getattr(self, name)!r}')
        if self.budget is not None:
            check_budget(self.budget)

    def plan(self, schedule: Schedule) -> Plan:
        """Returns the plan that was asked for."""
        return Plan(schedule.interval, self.rescore, self.resolution)


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
    cached: bool,
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
        cached (bool): Whether the teacher's outputs are there.

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
    )
    so_far = spent if held else None
    # during a run the resolution stays: scores of two resolutions say different things
    asked = cost.plan(schedule)._replace(resolution=plan.resolution)
    if cost.budget is not None:
        choice = choose_plan(costs, work, asked, cost.budget, cached, so_far)
    elif trained and not cost.force:
        choice = widen_interval(costs, work, asked, cached, so_far)
    else:
        choice = Choice(asked, predict(costs, work, asked, cached, so_far), True)
    if not trained:
        require_cheaper(choice.prediction, cost.force)
    return choice


def in_words(choice: Choice, budget: Optional[float]) -> str:
    """Returns a sentence or two for the log."""
    plan, prediction, _ = choice
    basis = 'training steps measured' if prediction.measured else 'a training step taken as three forward passes'
    sentence = (
        f'Predicted in all: selection {prediction.selection:.1f} s and training {prediction.training:.1f} s, '
        f'{prediction.total / prediction.full:.0%} of training on all images ({prediction.full:.1f} s), selection '
        f'{prediction.share:.0%} of the total ({basis}).'
    )
    if budget is None:
        return sentence
    fits = 'within' if choice.fits else 'the cheapest, though not within'
    return (
        f'{sentence} Plan: interval={plan.interval}, rescore={plan.rescore:g}, resolution={plan.resolution:g}: {fits} '
        f'budget={budget:g}.'
    )
