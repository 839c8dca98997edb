"""When rounds are held, how much each of them scores, and what all that costs."""

from dataclasses import dataclass
from typing import Any, Dict, Optional

from mmengine.dist import broadcast_object_list

from mmacs.coreset.budget.prediction import (
    Costs,
    Plan,
    Prediction,
    Spent,
    Work,
    check_budget,
    choose_plan,
    predict,
    require_cheaper,
)
from mmacs.utils.errors import MmacsError


@dataclass(frozen=True)
class Extent:
    """How long a run is. Times are epochs, or iterations in an iteration-based loop.

    Args:
        end (int): When it ends.
        per_unit (int): Images trained on per epoch or iteration, in all processes.
        size (int): Images in the coreset.
        indices (int): Length of the data set.
        images (int): Distinct images in it.
    """

    end: int
    per_unit: int
    size: int
    indices: int
    images: int


class Schedule:
    """The calendar of a run's rounds.

    Args:
        plan (Plan): Interval, share scored again and resolution that the user asked for.
        warmup (int): Time of the first round.
        full_data_last (int): Time at the end that goes through all data, without rounds.
        rounds (int, optional): Number of rounds; None: no end.
        budget (float, optional): Greatest share of selection in the wall time; the plan is then adapted to it.
        force (bool): Whether a run that takes longer than training on all images may go on.

    Attributes:
        plan (Plan): What holds now.
        next_round (int): When the next round is due.
        selection_seconds (float): Spent so far.
        training_seconds (float): Spent so far.
        trained (int): Images trained on so far, in all processes.
        fits (bool): Whether the plan is within the budget.
    """

    def __init__(
        self, plan: Plan, warmup: int, full_data_last: int, rounds: Optional[int], budget: Optional[float], force: bool
    ) -> None:
        if budget is not None:
            check_budget(budget)
        self.asked = self.plan = plan
        self.full_data_last = full_data_last
        self.rounds = rounds
        self.budget = budget
        self.force = force
        self.next_round = warmup
        self.selection_seconds = 0.0
        self.training_seconds = 0.0
        self.trained = 0
        self.fits = True
        self.extent: Optional[Extent] = None

    def begin(self, extent: Extent) -> None:
        """Learn how long the run is.

        Raises:
            MmacsError: If it ends before the first round, or goes through all data from the start.
        """
        if self.next_round >= extent.end - self.full_data_last:
            raise MmacsError(
                f'warmup={self.next_round} and full_data_last={self.full_data_last} leave no time for a round in a run '
                f'of {extent.end}'
            )
        self.extent = extent

    def due(self, now: int, held: int) -> bool:
        """Whether a round is due, after ``held`` rounds."""
        return now >= self.next_round and not self.sweeps(now) and (self.rounds is None or held < self.rounds)

    def awaits(self, held: int) -> bool:
        """Whether there will be another round after ``held`` rounds."""
        return self.next_round < self.extent.end - self.full_data_last and (self.rounds is None or held < self.rounds)

    def sweeps(self, now: int) -> bool:
        """Whether training goes through all data now."""
        return now >= self.extent.end - self.full_data_last

    def round_held(self, now: int) -> None:
        """Set the time of the next round."""
        self.next_round = now + self.plan.interval

    def choose(self, costs: Costs, now: int, held: int, cached: bool) -> str:
        """Fit the plan to the budget and see whether the run is worth its time.

        Args:
            costs (Costs): Measured seconds per image.
            now (int): Before the first round, or after another one.
            held (int): Rounds held so far; the run may be refused after none, and after two, when training was
                measured.
            cached (bool): Whether the teacher's outputs are there.

        Returns:
            str: A sentence for the log.

        Raises:
            MmacsError: If the run is predicted to take longer than training on all images.
        """
        agreed = [costs, self.selection_seconds, self.training_seconds]
        broadcast_object_list(agreed)  # clocks differ between processes; what is decided by them must not
        costs, self.selection_seconds, self.training_seconds = agreed
        extent = self.extent
        left = extent.end - self.full_data_last - now
        if self.rounds is not None:
            left = min(left, self.asked.interval * (self.rounds - max(held - 1, 0)))
        epochs = extent.per_unit * extent.end / extent.size
        work = Work(
            images=extent.images,
            trained=extent.per_unit * (extent.end - (now if held else 0)),
            full=round(epochs * extent.indices),
            left=max(left, 1),
        )
        spent = Spent(self.selection_seconds, self.training_seconds) if held else None
        note = ''
        if self.budget is None:
            prediction = predict(costs, work, self.plan, cached, spent)
        else:
            # during a run the resolution stays: scores of two resolutions say different things
            asked = self.asked._replace(resolution=self.plan.resolution) if held else self.asked
            choice = choose_plan(costs, work, asked, self.budget, cached, spent)
            self.plan, prediction, self.fits = choice.plan, choice.prediction, choice.fits
            fits = 'within' if choice.fits else 'the cheapest, though not within'
            note = f' Plan: {describe(self.plan)}: {fits} selection_budget={self.budget:g}.'
        if held in (0, 2):  # with an assumed and with a measured step; later on little is left to be saved
            require_cheaper(prediction, self.force)
        return f'{summary(prediction)}.{note}'

    def costs(self, score: float, teacher: float = 0.0, forward: Optional[float] = None) -> Costs:
        """Costs at full resolution from seconds per image at that of the plan.

        The training step's is measured once there was training.
        """
        area = self.plan.resolution**2
        step = self.training_seconds / self.trained if self.trained and self.training_seconds else None
        return Costs(score / area, teacher / area, step, None if forward is None else forward / area)

    # ---------------------------------------------------------------- checkpoint
    def state_dict(self) -> Dict[str, Any]:
        """Plain values."""
        return {
            'plan': list(self.plan),
            'next_round': self.next_round,
            'selection_seconds': self.selection_seconds,
            'training_seconds': self.training_seconds,
            'trained': self.trained,
        }

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """Take up the state of a run that is being resumed; without a budget the plan is the config's."""
        if self.budget is not None:
            self.plan = Plan(*state['plan'])
        self.next_round = state['next_round']
        self.selection_seconds, self.training_seconds = state['selection_seconds'], state['training_seconds']
        self.trained = state['trained']


def describe(plan: Plan) -> str:
    """A plan in words."""
    return f'interval={plan.interval}, rescore={plan.rescore:g}, resolution={plan.resolution:g}'


def summary(prediction: Prediction) -> str:
    """A prediction in words."""
    basis = 'training steps measured' if prediction.measured else 'a training step taken as three forward passes'
    return (
        f'Predicted in all: selection {prediction.selection:.1f} s and training {prediction.training:.1f} s, '
        f'{prediction.total / prediction.full:.0%} of training on all images ({prediction.full:.1f} s), selection '
        f'{prediction.share:.0%} of the total ({basis})'
    )
