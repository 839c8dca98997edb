"""Importance scores of single images: the mathematics, without data sets or models."""

from typing import Optional

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from mmacs.errors import unknown_name

MAX_STRATA = 8  # of object counts
SIGNIFICANT_BITS = 14


def error_vector_score(probs: Tensor, labels: Tensor) -> Tensor:
    """How wrong the quantized model is: ``EVS = || p_q - y ||_2`` with y the one-hot label.

    Source: Huang et al. 2024, arXiv 2306.07215 (ACS).

    Args:
        probs (Tensor): Class probabilities of the quantized model, shape (B, K), each row summing to 1.
        labels (Tensor): Class indices, int64, shape (B,).

    Returns:
        Tensor: Scores in [0, sqrt(2)], shape (B,).
    """
    error = probs.clone()
    error[range(len(labels)), labels] -= 1
    return error.norm(dim=1)


def reducible_error(error: Tensor, teacher_error: Tensor) -> Tensor:
    """The part of the quantized model's error that quantization brought.

    Source: the reducible loss of RHO-LOSS (Mindermann et al. 2022, arXiv 2206.07137, equation 3), with the
    full-precision teacher in the place of the model that was trained on a holdout set.

    Args:
        error (Tensor): Error of the quantized model on each image, shape (B,).
        teacher_error (Tensor): That of the teacher, shape (B,).

    Returns:
        Tensor: ``error - teacher_error``, shape (B,), of both rounded: of two numbers that are nearly equal, the last
        digits make up the difference.
    """
    return round_scores(error.float()) - round_scores(teacher_error.float())


def round_scores(scores: Tensor) -> Tensor:
    """Round to 14 significant bits, on which kernels agree that add up in another order; zeros, NaN and Inf stay."""
    mantissa, exponent = torch.frexp(scores)
    return torch.ldexp(torch.round(mantissa * 2**SIGNIFICANT_BITS), exponent - SIGNIFICANT_BITS)


def normalise(scores: np.ndarray, how: str, groups: Optional[np.ndarray] = None) -> np.ndarray:
    """Bring one score column of the whole data set to a common scale.

    Args:
        scores (np.ndarray): Finite scores, shape (N,).
        how (str): ``'rank'``: ranks scaled to (0, 1), equal scores sharing their mean rank; ``'minmax'``: affinely to
            [0, 1]; ``'none'``: as they are.
        groups (np.ndarray, optional): Integers, shape (N,): images of one number are brought to scale among
            themselves.

    Returns:
        np.ndarray: float64, shape (N,). All equal scores become 0 under ``'minmax'`` and 0.5 under ``'rank'``.

    Raises:
        MmacsError: If ``how`` is unknown.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if how == 'none':
        return scores
    if groups is not None:
        scaled = np.empty_like(scores)
        for group in np.unique(groups):
            members = groups == group
            scaled[members] = normalise(scores[members], how)
        return scaled
    if how == 'rank':
        return (rankdata(scores) - 0.5) / len(scores)
    if how == 'minmax':
        span = np.ptp(scores)
        return (scores - scores.min()) / span if span > 0 else np.zeros_like(scores)
    raise unknown_name('normalisation', how, ('rank', 'minmax', 'none'))


def count_strata(counts: np.ndarray, max_strata: int = MAX_STRATA, min_images: int = 32) -> np.ndarray:
    """Group images with about as many objects, by quantiles of their counts.

    Args:
        counts (np.ndarray): Objects of each image, int, shape (N,).
        max_strata (int): Greatest number of strata.
        min_images (int): About how many images a stratum has at least.

    Returns:
        np.ndarray: Number of the stratum, from few objects to many, int64, shape (N,).
    """
    number = max(1, min(max_strata, len(counts) // min_images))
    edges = np.quantile(counts, np.linspace(0, 1, number + 1)[1:-1])
    return np.searchsorted(edges, counts, side='left')
