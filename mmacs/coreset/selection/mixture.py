"""How many labels are wrong, from the teacher's errors alone: two normal distributions of their logarithms, mixed.

Errors on right labels and on wrong ones are two heaps, told apart as DivideMix does (Li et al., ICLR 2020, arXiv
2002.07394, section 3.1, there of the training loss; Arazo et al. 2019, arXiv 1904.11238, have Beta distributions).
Logarithms need no upper bound, so that losses of detectors fit too. A mixture finds two heaps in anything: errors on
right labels have a tail of hard images, which is none. What has no valley before it is taken for a tail, and nothing
is left out. A teacher that is wrong about many right labels, and sure of it, makes a heap of them too.
"""

from typing import NamedTuple

import numpy as np
from scipy.stats import norm

BINS = 256
STEPS = 300
STARTS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)  # shares of the images in the lower heap that a fit begins with
SMALLEST = 1e-3  # errors below this share of the 95th percentile are taken for it: such labels are right anyway
MOST = 0.5  # where more labels are wrong than right, which are the wrong ones cannot be told
VALLEY = 0.6  # density between the heaps over that of the lower one of their peaks, at most


class Heaps(NamedTuple):
    """Two normal distributions; arrays of shape (2,), the one of lower mean first."""

    weights: np.ndarray  # they add up to 1
    means: np.ndarray
    deviations: np.ndarray

    def densities(self, points: np.ndarray) -> np.ndarray:
        """Returns the weighted density of each, float64, shape (2, P)."""
        return self.weights[:, None] * norm.pdf(points, self.means[:, None], self.deviations[:, None])


def wrong_share(errors: np.ndarray) -> float:
    """Returns the share of images whose label is rather wrong than right, in [0, 0.5].

    Args:
        errors (np.ndarray): The teacher's error on the given label of each image, not negative, finite, shape (N,).
            Its scale doesn't matter.

    Returns:
        float: 0 if there is no valley between the two heaps.
    """
    errors = np.asarray(errors, dtype=np.float64)
    top = np.percentile(errors, 95)
    if top <= 0:
        return 0.0
    logs = np.log(np.maximum(errors, SMALLEST * top))
    if np.ptp(logs) == 0:
        return 0.0
    counts, edges = np.histogram(logs, BINS)
    points = (edges[1:] + edges[:-1]) / 2
    heaps = fit_heaps(points, counts / counts.sum())
    lower, upper = heaps.densities(points)
    both, (left, right) = lower + upper, heaps.means
    between = both[(points >= left) & (points <= right)]
    peaks = both[np.searchsorted(points, heaps.means).clip(0, BINS - 1)]
    if len(between) == 0 or between.min() > VALLEY * peaks.min():
        return 0.0
    return min(MOST, float(counts[(upper > lower) & (points > left)].sum() / counts.sum()))


def fit_heaps(points: np.ndarray, shares: np.ndarray) -> Heaps:
    """Fits two normal distributions to a histogram by expectation and maximisation; the likeliest of several fits.

    Args:
        points (np.ndarray): Middles of its bins, ascending, shape (P,).
        shares (np.ndarray): Of the images in each bin, shape (P,); they add up to 1.
    """
    narrowest = 2 * (points[1] - points[0])
    fits = []
    for start in STARTS:
        upper = np.cumsum(shares) > start
        belongs = np.stack([~upper, upper]).astype(np.float64) + 1e-9
        for _ in range(STEPS):
            weights = belongs @ shares
            means = belongs @ (shares * points) / weights
            spreads = (belongs * (points - means[:, None]) ** 2) @ shares / weights
            heaps = Heaps(weights / weights.sum(), means, np.maximum(np.sqrt(spreads), narrowest))
            densities = heaps.densities(points) + 1e-300
            updated = densities / densities.sum(0)
            if np.abs(updated - belongs).max() < 1e-4:
                break
            belongs = updated
        fits.append((shares @ np.log(densities.sum(0)), heaps))
    best = max(fits, key=lambda fit: fit[0])[1]
    order = np.argsort(best.means)
    return Heaps(*(values[order] for values in best))
