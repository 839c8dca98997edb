"""When rounds are held. Times are epochs, or iterations in an iteration-based loop."""

from dataclasses import dataclass, replace
from typing import Any, List, Optional, Union

from mmacs.utils.checks import is_number, require_whole
from mmacs.utils.errors import MmacsError


@dataclass(frozen=True)
class Schedule:
    """The calendar of a run's rounds.

    Args:
        interval (int or float): Time between rounds, R. Times below 1 are shares of the run. Defaults to 0.25.
        warmup (int or float): Time of the first round; before, a random subset is drawn in each epoch. Defaults to 0.
        full_data_last (int or float): Time at the end that goes evenly through all data, without rounds. Defaults to 0.
        rounds (int, optional): Number of rounds after which the coreset stays; None: no end.

    Raises:
        MmacsError: If a time is no whole number, no share of the run, or too small.
    """

    interval: Union[int, float] = 0.25
    warmup: Union[int, float] = 0
    full_data_last: Union[int, float] = 0
    rounds: Optional[int] = None

    def __post_init__(self) -> None:
        for name, least in (('interval', 1), ('warmup', 0), ('full_data_last', 0), ('rounds', 1)):
            value = getattr(self, name)
            if name == 'rounds' and value is None or name != 'rounds' and _is_share(value):
                continue
            require_whole(name, value, least)

    def over(self, end: int) -> 'Schedule':
        """Returns the schedule of a run that ends at ``end``: shares of it become whole times, at least 1."""
        shares = {name: value for name, value in vars(self).items() if _is_share(value)}
        return replace(self, **{name: max(1, int(share * end + 0.5)) for name, share in shares.items()})

    def check(self, end: int) -> None:
        """Requires that a run that ends at ``end`` has time for a round.

        Raises:
            MmacsError: If it ends before the first round, or goes through all data from the start.
        """
        if self.warmup >= self.last(end):
            raise MmacsError(
                f'warmup={self.warmup} and full_data_last={self.full_data_last} leave no time for a round in a run '
                f'of {end}'
            )

    def last(self, end: int) -> int:
        """Returns the time from which on training goes through all data, without rounds."""
        return end - self.full_data_last

    def sweeps(self, now: int, end: int) -> bool:
        """Returns whether training goes through all data now."""
        return now >= self.last(end)

    def due(self, now: int, next_round: int, held: int, end: int) -> bool:
        """Returns whether a round is due, after ``held`` rounds."""
        return now >= next_round and self.awaits(next_round, held, end) and not self.sweeps(now, end)

    def awaits(self, next_round: int, held: int, end: int) -> bool:
        """Returns whether there will be another round after ``held`` rounds."""
        return next_round < self.last(end) and (self.rounds is None or held < self.rounds)

    def times(self, end: int) -> List[int]:
        """Returns when rounds are held in a run that ends at ``end``, if nothing changes their interval."""
        return list(range(self.warmup, self.last(end), self.interval))[: self.rounds]

    def rounds_left(self, next_round: int, interval: int, held: int, end: int) -> int:
        """Returns how many rounds come after ``held`` rounds, the next at ``next_round``, others ``interval`` apart."""
        if not self.awaits(next_round, held, end):
            return 0
        left = -((next_round - self.last(end)) // interval)  # rounded up
        return left if self.rounds is None else min(left, self.rounds - held)

    def time_left(self, now: int, held: int, end: int) -> int:
        """Returns the time from now on, after ``held`` rounds, in which rounds are held; at least 1."""
        left = self.last(end) - now
        if self.rounds is not None:
            left = min(left, self.interval * (self.rounds - max(held - 1, 0)))
        return max(left, 1)


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 < value < 1
