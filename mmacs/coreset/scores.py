"""Importance scores of single images: the mathematics, without data sets or models."""

from typing import Optional

import numpy as np
from scipy.stats import rankdata
from torch import Tensor

from mmacs.errors import unknown_name

NORMALISATIONS = ('rank', 'minmax', 'none')


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


def disagreement_score(probs: Tensor, teacher_probs: Tensor) -> Tensor:
    """How far quantization moved the prediction: ``DS = || p_q - p_T ||_2``.

    Source: Huang et al. 2024, arXiv 2306.07215 (ACS).

    Args:
        probs (Tensor): Class probabilities of the quantized model, shape (B, K).
        teacher_probs (Tensor): Those of the full-precision model on the same images, shape (B, K).

    Returns:
        Tensor: Scores in [0, sqrt(2)], shape (B,).
    """
    return (probs - teacher_probs).norm(dim=1)


def normalise(scores: np.ndarray, how: str, cohorts: Optional[np.ndarray] = None) -> np.ndarray:
    """Bring one score column of the whole data set to a common scale.

    Args:
        scores (np.ndarray): Finite scores, shape (N,).
        how (str): ``'rank'``: ranks scaled to [0, 1], equal scores sharing their mean rank; ``'minmax'``: affinely to
            [0, 1]; ``'none'``: as they are.
        cohorts (np.ndarray, optional): Integers, shape (N,): images of one number are brought to scale among
            themselves. Scores that models of different age gave are not comparable, ranks within their cohort are.

    Returns:
        np.ndarray: float64, shape (N,). All equal scores become 0 under ``'minmax'`` and 0.5 under ``'rank'``.

    Raises:
        MmacsError: If ``how`` is unknown.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if how == 'none':
        return scores
    if cohorts is not None:
        scaled = np.empty_like(scores)
        for cohort in np.unique(cohorts):
            members = cohorts == cohort
            scaled[members] = normalise(scores[members], how)
        return scaled
    if how == 'rank':
        return (rankdata(scores) - 1) / (len(scores) - 1) if len(scores) > 1 else np.full(len(scores), 0.5)
    if how == 'minmax':
        span = np.ptp(scores)
        return (scores - scores.min()) / span if span > 0 else np.zeros_like(scores)
    raise unknown_name('normalisation', how, NORMALISATIONS)
