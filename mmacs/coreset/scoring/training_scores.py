"""Scores that training forwards give for nothing, brought to the scale of exact ones."""

from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

MIN_PAIRS = 16
MIN_CORRELATION = 0.5


class Alignment(NamedTuple):
    """How scores of training forwards relate to exact ones: ``exact = slope * given + intercept``."""

    slope: float
    intercept: float
    correlation: float  # Spearman's, over the images that have both
    pairs: int

    @property
    def sound(self) -> bool:
        """Whether the scores order images well enough to stand in for exact ones."""
        return self.pairs >= MIN_PAIRS and self.correlation >= MIN_CORRELATION and self.slope > 0

    def apply(self, given: np.ndarray) -> np.ndarray:
        """Brings scores of training forwards, any shape, to the scale of exact ones."""
        return self.slope * given + self.intercept


def align(given: np.ndarray, exact: np.ndarray) -> Alignment:
    """Fit a line by least squares to images that were both trained on and scored.

    A training forward sees an augmented image, with batch statistics, and weights of some iterations ago. So its
    scores can't stand beside exact ones as they are.

    Args:
        given (np.ndarray): Scores from training forwards, shape (P,).
        exact (np.ndarray): Scores of the same images from a scoring pass, shape (P,).

    Returns:
        Alignment: With correlation 0 where either side is constant.
    """
    if len(exact) < 2 or np.ptp(given) == 0 or np.ptp(exact) == 0:
        return Alignment(0.0, float(np.mean(exact)) if len(exact) else 0.0, 0.0, len(exact))
    slope, intercept = np.polyfit(given.astype(np.float64), exact.astype(np.float64), 1)
    return Alignment(float(slope), float(intercept), float(spearmanr(given, exact)[0]), len(exact))
