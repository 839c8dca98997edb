"""Samples of a fixed size with given inclusion probabilities."""

import numpy as np

# Probabilities are whole multiples of 2^-32, so that their sums are exact and the size of the sample is, too.
_UNIT = 2**32


def systematic_sample(probabilities: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a sample of fixed size in which each image is included with its own probability (Madow 1949).

    The probabilities are laid end to end in random order; an image is chosen if one of the points ``u, u + 1, ...``,
    with u uniform in [0, 1), falls into its interval.

    Args:
        probabilities (np.ndarray): In [0, 1], shape (N,); their sum must be a whole number. They are rounded to
            multiples of 2^-32.
        rng (np.random.Generator): The only source of chance.

    Returns:
        np.ndarray: Indices, int64, ascending; as many as the sum of the probabilities.

    Raises:
        ValueError: If a probability is out of range, or their sum is not a whole number.
    """
    total = float(probabilities.sum())
    size = round(total)
    if probabilities.min(initial=0) < 0 or probabilities.max(initial=0) > 1 or abs(total - size) > 1e-6 * max(1, size):
        raise ValueError(f'inclusion probabilities must lie in [0, 1] and add up to a whole number, not to {total}')
    lengths = interval_lengths(probabilities, size)
    order = rng.permutation(len(lengths))
    ends = np.cumsum(lengths[order])
    points = rng.integers(_UNIT) + _UNIT * np.arange(size)
    return np.sort(order[np.searchsorted(ends, points, side='right')])


def interval_lengths(probabilities: np.ndarray, size: int) -> np.ndarray:
    """Probabilities as multiples of 2^-32 whose sum is exact.

    Args:
        probabilities (np.ndarray): In [0, 1], shape (N,), with a sum of ``size`` but for rounding errors.
        size (int): A whole number.

    Returns:
        np.ndarray: int64, from 0 to 2^32, shape (N,); their sum is ``size * 2^32``.
    """
    lengths = np.rint(probabilities * _UNIT).astype(np.int64)
    missing = size * _UNIT - int(lengths.sum())  # what rounding took; images of probability 0 or 1 keep theirs
    if missing:
        uncertain = np.flatnonzero((lengths > 0) & (lengths < _UNIT))
        each, more = divmod(missing, len(uncertain))
        lengths[uncertain] += each
        lengths[uncertain[:more]] += 1
    return lengths
