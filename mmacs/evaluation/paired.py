"""Differences between two methods that ran with the same seeds."""

from typing import Hashable, Mapping, NamedTuple, Optional

import numpy as np
from scipy import stats


class PairedDifference(NamedTuple):
    """The mean difference of pairs, and how sure it is.

    Attributes:
        mean (float): Of the differences, in the unit of the values.
        standard_error (float, optional): Standard deviation of the differences (n - 1) over the root of n; None for
            one pair.
        pairs (int): n, at least 1.
        t (float, optional): Mean over standard error; None where that is 0 or there is one pair.
        p (float, optional): Of Student's t test for pairs, two-sided; None where t is.
    """

    mean: float
    standard_error: Optional[float]
    pairs: int
    t: Optional[float]
    p: Optional[float]


def paired_difference(
    values: Mapping[Hashable, float], baseline: Mapping[Hashable, float]
) -> Optional[PairedDifference]:
    """Returns how much values lie above a baseline's of the same keys, such as seeds; None if they share none.

    Pairing takes out what a seed does to both alike (Student's paired t test; `scipy.stats.ttest_rel`).

    Args:
        values (Mapping): Value by key; keys that the baseline lacks are left out.
        baseline (Mapping): Likewise.
    """
    keys = [key for key in values if key in baseline]
    if not keys:
        return None
    ours, theirs = (np.asarray([of[key] for key in keys], dtype=np.float64) for of in (values, baseline))
    differences = ours - theirs
    mean = float(differences.mean())
    if len(keys) == 1:
        return PairedDifference(mean, None, 1, None, None)
    error = float(stats.sem(differences))
    if error <= 1e-12 * max(1.0, float(np.abs(ours).max())):  # equal but for rounding
        return PairedDifference(mean, 0.0, len(keys), None, None)
    test = stats.ttest_rel(ours, theirs)
    return PairedDifference(mean, error, len(keys), float(test.statistic), float(test.pvalue))
