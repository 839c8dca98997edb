"""How the weight of the error vector score falls over a run."""

import math
from typing import Callable, Dict, Union

from mmacs.utils.checks import require_known
from mmacs.utils.errors import MmacsError

_SCHEDULES: Dict[str, Callable[[float], float]] = {
    'cosine': lambda x: math.cos(math.pi * x / 2),
    'half_cosine': lambda x: 0.5 * (1 + math.cos(math.pi * x)),
    'linear': lambda x: 1 - x,
    'sqrt': lambda x: 1 - math.sqrt(x),
    'quadratic': lambda x: 1 - x * x,
    'constant': lambda x: 0.5,
}


def beta(schedule: Union[str, float], epoch: float, max_epochs: float) -> float:
    """Weight of the error vector score at an epoch, ``x = epoch / max_epochs``.

    Args:
        schedule (str or float): ``'cosine'``: cos(pi x / 2), the schedule of the ACS paper (arXiv 2306.07215);
            ``'half_cosine'``: (1 + cos(pi x)) / 2, that of its authors' released code, the square of the former;
            ``'linear'``: 1 - x; ``'sqrt'``: 1 - sqrt(x); ``'quadratic'``: 1 - x^2; ``'constant'``: 0.5. A number in
            [0, 1] is a constant of that value: 1 is the error vector score alone, 0 disagreement alone.
        epoch (float): Epoch from 0.
        max_epochs (float): Number of epochs of the run, positive.

    Returns:
        float: A weight in [0, 1].

    Raises:
        MmacsError: If the schedule is unknown, or the constant or the epoch out of range.
    """
    if isinstance(schedule, (int, float)) and not isinstance(schedule, bool):
        if not 0 <= schedule <= 1:
            raise MmacsError(f'a constant beta must be from 0 to 1, got {schedule}')
        return float(schedule)
    require_known('beta schedule', schedule, _SCHEDULES)
    if not 0 <= epoch <= max_epochs or max_epochs <= 0:
        raise MmacsError(f'epoch must be from 0 to max_epochs={max_epochs}, got {epoch}')
    return min(1.0, max(0.0, _SCHEDULES[schedule](epoch / max_epochs)))
