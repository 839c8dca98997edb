"""Importance scores of single images: the mathematics, without data sets or models."""

import torch
from torch import Tensor

SIGNIFICANT_BITS = 14


def error_vector_score(probs: Tensor, labels: Tensor) -> Tensor:
    """Returns how wrong the quantized model is: ``EVS = || p_q - y ||_2`` with y the one-hot label.

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
    """Returns how far quantization moved the prediction: ``DS = || p_q - p_T ||_2``.

    Source: Huang et al. 2024, arXiv 2306.07215 (ACS).

    Args:
        probs (Tensor): Class probabilities of the quantized model, shape (B, K), each row summing to 1.
        teacher_probs (Tensor): Those of the full-precision model on the same images, shape (B, K).

    Returns:
        Tensor: Scores in [0, sqrt(2)], shape (B,).
    """
    return (probs - teacher_probs).norm(dim=1)


def reducible_error(error: Tensor, teacher_error: Tensor) -> Tensor:
    """Returns the part of the quantized model's error that quantization brought.

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
