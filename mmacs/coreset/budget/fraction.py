"""Schedules of the fraction: epochs of different size, as many images in all as with a constant fraction."""

from dataclasses import dataclass, fields
from typing import Any, Callable, Dict, Mapping, Tuple, Union

import numpy as np

from mmacs.utils.checks import is_number, require_known
from mmacs.utils.errors import MmacsError, unknown_name

_KINDS: Dict[str, Callable[[np.ndarray], np.ndarray]] = {  # from 1, the start, to 0, the end, by the epoch of each
    'constant': lambda epochs: np.full(len(epochs), 0.5),
    'cosine': lambda epochs: (1 + np.cos(np.pi * (epochs + 0.5) / len(epochs))) / 2,
    'oscillating': lambda epochs: 1.0 - epochs % 2,
}


@dataclass(frozen=True)
class FractionSchedule:
    """How the share of the images in an epoch changes over a run (PODS, arXiv 2605.14773, oscillates it).

    Args:
        type (str): ``'cosine'``: half a cosine from start to end; ``'oscillating'``: start and end in turn, start in
            the first epoch; ``'constant'``: the mean of both, for comparison.
        start (float): Share, above 0 and at most 1.
        end (float): Share, above 0 and at most 1.

    Raises:
        MmacsError: If the type is unknown, or a share out of range.
    """

    type: str
    start: float
    end: float

    def __post_init__(self) -> None:
        require_known('type of fraction', self.type, _KINDS)
        for name in ('start', 'end'):
            share = getattr(self, name)
            if not is_number(share) or not 0 < share <= 1:
                raise MmacsError(f'{name} of fraction must be above 0 and at most 1, got {share!r}')

    @property
    def mean(self) -> float:
        """The constant fraction that shows as many images."""
        return (self.start + self.end) / 2

    def shares(self, epochs: int) -> np.ndarray:
        """Returns the share of the images in each epoch before it is rounded, shape (epochs,), of the mean ``mean``."""
        shares = self.end + (self.start - self.end) * _KINDS[self.type](np.arange(epochs))
        return shares - shares.mean() + self.mean  # oscillating, in an odd number of epochs


def read_fraction(fraction: Any) -> Tuple[Any, Union[FractionSchedule, None]]:
    """Returns the mean fraction of a config, and its schedule, None if it is constant.

    Args:
        fraction (float or Mapping): A number, which is not checked, or the arguments of :class:`FractionSchedule`.

    Raises:
        MmacsError: If it is no such dict.
    """
    if not isinstance(fraction, Mapping):
        return fraction, None
    names = [field.name for field in fields(FractionSchedule)]
    for name in fraction:
        if name not in names:
            raise unknown_name('setting of fraction', name, names)
    if len(fraction) < len(names):
        raise MmacsError(
            f"fraction must be a number or a dict such as dict(type='cosine', start=0.2, end=0.05), got "
            f'{dict(fraction)!r}'
        )
    schedule = FractionSchedule(**fraction)
    return schedule.mean, schedule


def epoch_sizes(
    schedule: FractionSchedule, epochs: int, num_images: int, mean_size: int, batch: int, num_batches: int
) -> np.ndarray:
    """Returns the number of images in each epoch.

    They differ from the mean size by whole batches. So images and batches both add up to what a constant fraction has,
    a last batch that is smaller stays as it is, and schedules of learning rates in iterations end with the run.

    Args:
        schedule (FractionSchedule): The shares.
        epochs (int): Epochs of the run, E.
        num_images (int): Length of the data set, N.
        mean_size (int): Images in an epoch of the constant fraction.
        batch (int): Images per iteration, in all processes.
        num_batches (int): Iterations in an epoch of the constant fraction, at least 1.

    Returns:
        np.ndarray: int64, shape (E,), each of a batch at least and N at most; their sum is ``E * mean_size``.
    """
    least, most = 1 - num_batches, (num_images - mean_size) // batch
    wanted = (schedule.shares(epochs) - schedule.mean) * num_images / batch
    more = np.clip(np.floor(np.round(wanted, 9)), least, most).astype(np.int64)
    while missing := -int(more.sum()):  # by largest remainders
        step = 1 if missing > 0 else -1
        free = np.flatnonzero(more < most if step > 0 else more > least)
        first = free[np.argsort(-step * (wanted - more)[free], kind='stable')][: abs(missing)]
        more[first] += step
    return mean_size + batch * more
