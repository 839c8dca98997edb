"""Loss weights that make the gradient of a drawn coreset that of all images on average."""

import numpy as np

from mmacs.utils.errors import MmacsError


def inverse_probability_weights(
    probabilities: np.ndarray, size: int, num_images: int, w_max: float = np.inf
) -> np.ndarray:
    """Weight each drawn image by the inverse of its chance to be drawn (Horvitz and Thompson, JASA 1952).

    With w_i = size / (N pi_i), the mean of w_i g_i over the coreset has the mean of g_i over all N images as its
    expectation, for any g that doesn't depend on the draw; images drawn evenly, pi_i = size / N, have weight 1. A
    loss that is averaged over something else than images, such as a detector's over its positive anchors, has this
    property before that division only.

    Clipping bounds the variance that rare images bring, and has its price in bias: an image with w_i > w_max counts
    w_max / w_i of what it should, so that the expectation lacks sum_i (1 - w_max / w_i) g_i / N over those images.

    Args:
        probabilities (np.ndarray): Inclusion probabilities pi of the images in the coreset, in (0, 1], shape (size,).
        size (int): Images in the coreset.
        num_images (int): Images in all, N.
        w_max (float): Largest weight, at least 1. Defaults to no bound.

    Returns:
        np.ndarray: Weights in (0, w_max], float64, shape (size,).

    Raises:
        MmacsError: If a probability is outside (0, 1], or ``w_max`` is below 1.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if not ((probabilities > 0) & (probabilities <= 1)).all():
        raise MmacsError('inclusion probabilities must be above 0 and at most 1')
    if not w_max >= 1:
        raise MmacsError(f'the largest loss weight must be at least 1, got {w_max!r}')
    return np.minimum(size / (num_images * probabilities), w_max)
