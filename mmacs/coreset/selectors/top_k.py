"""Which images a budget buys, given their scores. Exact and the same everywhere: ties go to the lower index."""

import hashlib

import numpy as np

from mmacs.errors import MmacsError


def coreset_size(fraction: float, num_images: int) -> int:
    """Number of images in a coreset, ``round(fraction * num_images)`` and at least 1.

    Raises:
        MmacsError: If ``fraction`` is outside (0, 1].
    """
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 < fraction <= 1:
        raise MmacsError(f'fraction must be above 0 and at most 1, got {fraction!r}')
    return max(1, round(fraction * num_images))


def top_k(scores: np.ndarray, size: int) -> np.ndarray:
    """Indices of the ``size`` highest scores, ascending.

    Args:
        scores (np.ndarray): Shape (N,).
        size (int): From 0 to N.

    Returns:
        np.ndarray: int64, shape (size,).
    """
    order = np.argsort(-np.asarray(scores), kind='stable')
    return np.sort(order[:size])


def class_balanced_top_k(scores: np.ndarray, labels: np.ndarray, size: int) -> np.ndarray:
    """Indices of the highest scores within each class, each class keeping its share of the data.

    Shares are rounded by largest remainders, so that the total is exact; of equal remainders the lower class wins.

    Args:
        scores (np.ndarray): Shape (N,).
        labels (np.ndarray): Class of each image, integer, shape (N,).
        size (int): From 0 to N.

    Returns:
        np.ndarray: int64, ascending, shape (size,).
    """
    classes, counts = np.unique(labels, return_counts=True)
    shares = size * counts / counts.sum()
    quotas = np.floor(shares).astype(np.int64)
    for chosen in np.argsort(quotas - shares, kind='stable')[: size - quotas.sum()]:
        quotas[chosen] += 1
    members = [np.flatnonzero(labels == label) for label in classes]
    return np.sort(np.concatenate([own[top_k(scores[own], quota)] for own, quota in zip(members, quotas)]))


def digest(indices: np.ndarray) -> str:
    """Hash of a selection that tells whether two runs, or two processes, chose the same images.

    Returns:
        str: The first 16 hexadecimal digits of the SHA-256 of the indices as little-endian int64.
    """
    return hashlib.sha256(np.ascontiguousarray(indices, dtype='<i8').tobytes()).hexdigest()[:16]
