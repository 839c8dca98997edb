"""Scores that training gives for nothing, brought to the scale of those from the scoring view."""

from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

MIN_PAIRS = 16
MIN_CORRELATION = 0.5


class Alignment(NamedTuple):
    """How scores of training forwards relate to exact ones: ``exact = slope * harvested + intercept``."""

    slope: float
    intercept: float
    correlation: float  # Spearman's, over the images that have both
    pairs: int

    @property
    def sound(self) -> bool:
        """Whether harvested scores order images well enough to stand in for exact ones."""
        return self.pairs >= MIN_PAIRS and self.correlation >= MIN_CORRELATION and self.slope > 0

    def apply(self, harvested: np.ndarray) -> np.ndarray:
        """Bring harvested scores, any shape, to the scale of exact ones."""
        return self.slope * harvested + self.intercept


def align(harvested: np.ndarray, exact: np.ndarray) -> Alignment:
    """Fit a line by least squares to images that were both trained on and scored.

    A training forward sees an augmented image, with batch statistics, and weights of some iterations ago. So its
    scores can't stand beside exact ones as they are.

    Args:
        harvested (np.ndarray): Scores from training forwards, shape (P,).
        exact (np.ndarray): Scores of the same images from the scoring view, shape (P,).

    Returns:
        Alignment: With correlation 0 where either side is constant.
    """
    if len(exact) < 2 or np.ptp(harvested) == 0 or np.ptp(exact) == 0:
        return Alignment(0.0, float(np.mean(exact)) if len(exact) else 0.0, 0.0, len(exact))
    slope, intercept = np.polyfit(harvested.astype(np.float64), exact.astype(np.float64), 1)
    return Alignment(float(slope), float(intercept), float(spearmanr(harvested, exact)[0]), len(exact))
