"""How many labels are wrong, from the teacher's errors alone: two normal distributions of their cube roots, mixed.

Errors on right labels and on wrong ones are two heaps, told apart as DivideMix does (Li et al., ICLR 2020, arXiv
2002.07394, section 3.1, there of the training loss; Arazo et al. 2019, arXiv 1904.11238, have Beta distributions). Cube
roots need no upper bound, so that losses of detectors fit too, and make skewed errors nearly normal (Wilson and
Hilferty, PNAS 1931); logarithms would make a second heap of the tiny errors of a sure teacher. A mixture finds two
heaps in anything: errors on right labels have a tail of hard images, which is none. What has no valley before it is
taken for a tail, and nothing is left out; so it is where heaps overlap widely. A teacher that is wrong about many right
labels, and sure of it, makes a heap of them too.
"""

from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter1d

BINS = 256
STEPS = 300
TINY = 1e-300
SMOOTH = 4  # bins, of the density whose lowest place parts the heaps
STARTS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)  # shares of the images in the lower heap that a fit begins with
LARGEST = 8  # errors above this multiple of the 99th percentile are taken for it
MOST = 0.5  # more than that is rather the teacher's fault: nothing is believed
VALLEY = 0.6  # density between the heaps over that of the lower one of their peaks, at most


class Heaps(NamedTuple):
    """Two normal distributions; arrays of shape (2,), the one of lower mean first."""

    weights: np.ndarray  # they add up to 1
    means: np.ndarray
    deviations: np.ndarray

    def densities(self, points: np.ndarray) -> np.ndarray:
        """Returns the weighted density of each, float64, shape (2, P)."""
        heights = self.weights / (self.deviations * np.sqrt(2 * np.pi))
        return heights[:, None] * np.exp(-(((points - self.means[:, None]) / self.deviations[:, None]) ** 2) / 2)


def wrong_share(errors: np.ndarray) -> float:
    """Returns the share of images whose label is rather wrong than right, in [0, 0.5].

    Args:
        errors (np.ndarray): The teacher's error on the given label of each image, not negative, finite, shape (N,).
            Its scale doesn't matter.

    Returns:
        float: 0 if there is no valley between the two heaps, or the upper one holds most of the images.
    """
    errors = np.asarray(errors, dtype=np.float64)
    roots = np.cbrt(np.minimum(errors, LARGEST * np.percentile(errors, 99)))
    if np.ptp(roots) == 0:
        return 0.0
    counts, edges = np.histogram(roots, BINS)
    points, shares = (edges[1:] + edges[:-1]) / 2, counts / counts.sum()
    fits = [fit_heaps(points, shares, start) for start in STARTS]
    apart = [heaps for heaps in fits if _have_valley(points, heaps)]
    if not apart:
        return 0.0
    heaps = max(apart, key=lambda one: shares @ np.log(one.densities(points).sum(0) + TINY))
    lower, upper = heaps.densities(points)
    between = np.flatnonzero((points > heaps.means[0]) & (points < heaps.means[1]))
    valley = between[np.argmin(gaussian_filter1d(shares, SMOOTH)[between])]
    share = float(shares[(upper > lower) & (points > points[valley])].sum())
    return share if share <= MOST else 0.0


def _have_valley(points: np.ndarray, heaps: Heaps) -> bool:
    """Returns whether the density of both falls between their means, from what it is at either."""
    both, peaks = (heaps.densities(at).sum(0) for at in (points, heaps.means))
    between = both[(points > heaps.means[0]) & (points < heaps.means[1])]
    return len(between) > 0 and between.min() <= VALLEY * peaks.min()


def fit_heaps(points: np.ndarray, shares: np.ndarray, start: float) -> Heaps:
    """Fits two normal distributions to a histogram by expectation and maximisation.

    Args:
        points (np.ndarray): Middles of its bins, ascending, shape (P,).
        shares (np.ndarray): Of the images in each bin, shape (P,); they add up to 1.
        start (float): Share of the images in the lower heap that the fit begins with, above 0 and below 1.
    """
    narrowest = 2 * (points[1] - points[0])
    upper = np.cumsum(shares) > start
    belongs = np.stack([~upper, upper]).astype(np.float64) + 1e-9
    for _ in range(STEPS):
        weights = belongs @ shares
        means = belongs @ (shares * points) / weights
        spreads = (belongs * (points - means[:, None]) ** 2) @ shares / weights
        heaps = Heaps(weights / weights.sum(), means, np.maximum(np.sqrt(spreads), narrowest))
        densities = heaps.densities(points) + TINY
        updated = densities / densities.sum(0)
        if np.abs(updated - belongs).max() < 1e-4:
            break
        belongs = updated
    order = np.argsort(heaps.means)
    return Heaps(*(values[order] for values in heaps))
