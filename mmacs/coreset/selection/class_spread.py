"""How far the classes of a coreset are from their shares of the data."""

import numpy as np
from scipy.sparse import csr_matrix

TOLERATED = 3.0  # times the spread of a random draw
LEAST = 0.3  # below, nothing is said


def class_spread(counts: np.ndarray, chosen: np.ndarray) -> float:
    """Spread of a coreset's class counts around the counts that their shares of the data would give.

    The root of the weighted mean of squared relative differences: with k of an expected e images of each class,
    ``sqrt(sum (k - e)^2 / e / sum e)``. Of equally frequent classes it is the standard deviation of their counts over
    the mean. On CIFAR-10 (500 of 5,000) top-k by a fresh 2-bit model had 1.1 to 1.5, a random draw has 0.1 to 0.2.

    Args:
        counts (np.ndarray): Images, or objects, of each class in the data, shape (C,).
        chosen (np.ndarray): The same in the coreset, shape (C,).

    Returns:
        float: 0 if all classes have their shares, or there are none. All from a class of share p: ``sqrt(1 / p - 1)``.
    """
    total, size = counts.sum(), chosen.sum()
    if not total or not size:
        return 0.0
    held = counts > 0
    shares = counts[held] / total
    return float(np.sqrt((np.square(chosen[held] / size - shares) / shares).sum()))


def random_spread(counts: np.ndarray, size: int, num_images: int) -> float:
    """Returns the spread, as root of the mean square, of ``size`` images drawn evenly without replacement.

    Args:
        counts (np.ndarray): Images of each class, shape (C,); one image may hold several classes.
        size (int): Images in the coreset, at least 1.
        num_images (int): Images in all, N.
    """
    total = counts.sum()
    if not total or num_images < 2:
        return 0.0
    missed = (1 - counts[counts > 0] / num_images).sum() * (num_images - size) / (num_images - 1)
    return float(np.sqrt(missed * num_images / (size * total)))


def whip_saw(labels: csr_matrix, chosen: np.ndarray) -> str:
    """Returns what to say of a coreset whose classes are far from their shares; empty if they are not.

    Args:
        labels (csr_matrix): Which classes each image holds, bool, shape (N, C).
        chosen (np.ndarray): Images of the coreset, int64, shape (size,).
    """
    counts, held = (np.bincount(of.indices, minlength=of.shape[1]) for of in (labels, labels[chosen]))
    spread, by_chance = class_spread(counts, held), random_spread(counts, len(chosen), labels.shape[0])
    if spread < max(LEAST, TOLERATED * by_chance):
        return ''
    return (
        f'classes are far from their shares of the data, by {spread:.2f} where a random draw has {by_chance:.2f}: '
        f'top-k takes those that the model gets wrong now, and others in the next round (class whip-saw). Take '
        f"preset='mmacs', or put the selector into dict(type='mmacs.ClassBalanced', selector=...)"
    )
