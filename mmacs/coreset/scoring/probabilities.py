"""Class probabilities: scores on those of classifiers, and what is kept of a teacher's. Pure functions."""

from typing import Dict

import torch
from torch import Tensor

from mmacs.coreset.scoring.scores import error_vector_score


def class_probabilities(logits: Tensor, activation: str, dim: int = -1) -> Tensor:
    """Probabilities of the classes, without background.

    Args:
        logits (Tensor): Logits, with K classes along ``dim``; with ``'softmax'`` K + 1, background last.
        activation (str): ``'sigmoid'``, ``'softmax'``, or ``'none'`` if they are probabilities already.
        dim (int): Defaults to the last.

    Returns:
        Tensor: In [0, 1], with K along ``dim``.
    """
    if activation == 'none':
        return logits
    if activation == 'softmax':
        return logits.softmax(dim).narrow(dim, 0, logits.shape[dim] - 1)
    return logits.sigmoid()


def margin_score(probs: Tensor) -> Tensor:
    """Returns how close the two likeliest classes are: ``1 - (p_1 - p_2)``.

    Args:
        probs (Tensor): Class probabilities, shape (B, K), K at least 2.

    Returns:
        Tensor: Scores in [0, 1], shape (B,).
    """
    first, second = probs.topk(2).values.unbind(1)
    return 1 - (first - second)


def entropy_score(probs: Tensor) -> Tensor:
    """Returns how undecided a prediction is: ``- sum p log p``, in nats.

    Args:
        probs (Tensor): Class probabilities, shape (B, K).

    Returns:
        Tensor: Scores in [0, log K], shape (B,).
    """
    return torch.special.entr(probs).sum(1)


def last_layer_gradient_norm(probs: Tensor, labels: Tensor, features: Tensor) -> Tensor:
    """GraNd with the last layer: the norm of the gradient of the cross-entropy at its weight and bias.

    The gradient is (p - y) h^T at the weight and p - y at the bias, hence ``|| p - y ||_2 sqrt(|| h ||_2^2 + 1)``.
    Source: Paul et al. 2021, arXiv 2107.07075; of one image, and of one network rather than the mean over several.

    Args:
        probs (Tensor): Class probabilities, shape (B, K).
        labels (Tensor): Class indices, int64, shape (B,).
        features (Tensor): Inputs h of the last linear layer, shape (B, D).

    Returns:
        Tensor: Scores, at least 0, shape (B,).
    """
    return error_vector_score(probs, labels) * (features.square().sum(1) + 1).sqrt()


def keep_probabilities(probs: Tensor, count: int) -> Dict[str, Tensor]:
    """Returns what is kept of a teacher's class probabilities: all, or the largest and two facts about the others.

    Args:
        probs (Tensor): Class probabilities of the teacher, float32, shape (B, K).
        count (int): How many to keep of each image, m.

    Returns:
        Dict[str, Tensor]: ``probs``, shape (B, K), where ``count`` is at least K. Otherwise ``probs``, the largest,
        shape (B, m); ``classes``, whose they are, int16 (int32 above 32768 classes), shape (B, m); and of the
        K - m others ``rest_mass``, their sum, and ``rest_spread``, the sum of their squared distances from their
        mean, each of shape (B,).
    """
    num_classes = probs.shape[1]
    if count >= num_classes:
        return {'probs': probs}
    kept, classes = probs.topk(count)
    is_rest = torch.ones_like(probs).scatter(1, classes, 0)
    mass = (probs * is_rest).sum(1)  # summed up, not 1 minus the others, which would leave rounding errors alone
    mean = mass[:, None] / (num_classes - count)
    return {
        'probs': kept,
        'classes': classes.to(torch.int16 if num_classes <= 2**15 else torch.int32),
        'rest_mass': mass,
        'rest_spread': ((probs - mean).square() * is_rest).sum(1),
    }


def spread_probabilities(kept: Dict[str, Tensor], num_classes: int) -> Tensor:
    """Returns the teacher's probabilities, those not kept replaced by their mean; shape (B, K).

    Args:
        kept (Dict[str, Tensor]): From :func:`keep_probabilities`.
        num_classes (int): K.
    """
    if 'classes' not in kept:
        return kept['probs']
    mean = kept['rest_mass'] / (num_classes - kept['probs'].shape[1])
    return mean[:, None].repeat(1, num_classes).scatter(1, kept['classes'].long(), kept['probs'])


def kept_logits(kept: Dict[str, Tensor], num_classes: int) -> Tensor:
    """Returns logits whose softmax is what was kept of the teacher, its other classes equally likely.

    Args:
        kept (Dict[str, Tensor]): From :func:`keep_probabilities`.
        num_classes (int): K.

    Returns:
        Tensor: Logarithms of probabilities, finite, since 0 counts as the smallest normal number of float32, shape
        (B, K).
    """
    return spread_probabilities(kept, num_classes).clamp_min(torch.finfo(torch.float32).tiny).log()


def disagreement(probs: Tensor, kept: Dict[str, Tensor]) -> Tensor:
    """Returns how far quantization moved the prediction, ``DS = || p_q - p_T ||_2``, from what was kept of the teacher.

    Exact where all classes were kept. Otherwise, with u the mean of the teacher's probabilities that were not kept,
    ``DS^2 = sum_kept (p_q - p_T)^2 + sum_rest (p_q - u)^2 + sum_rest (p_T - u)^2 - 2 sum_rest (p_q - u) (p_T - u)``.
    The last sum is neglected: no more than the rest's distances from u are known. It is at most
    ``2 sqrt(sum_rest (p_q - u)^2 sum_rest (p_T - u)^2)``, and also at most ``2 t r``, with t the smallest
    probability kept, at most 1/m, and r what the quantized model gives the rest. All other terms are at least 0 and
    none is a difference of large numbers.

    Args:
        probs (Tensor): Class probabilities of the quantized model, shape (B, K).
        kept (Dict[str, Tensor]): From :func:`keep_probabilities`.

    Returns:
        Tensor: Scores in [0, sqrt(2)], shape (B,); with the neglected term no more than sqrt(2 + 2/m).
    """
    squared = (probs - spread_probabilities(kept, probs.shape[1])).square().sum(1)
    return (squared + kept['rest_spread'] if 'classes' in kept else squared).sqrt()


def relative_entropy(probs: Tensor, kept: Dict[str, Tensor]) -> Tensor:
    """``KL(p_q || p_T) = sum p_q log(p_q / p_T)``, in nats, from what was kept of the teacher.

    Probabilities that were not kept are taken as equal, so that the mass that the teacher gives them is right.
    Source: the relative entropy score of QuaRC (arXiv 2507.17768).

    Args:
        probs (Tensor): Class probabilities of the quantized model, shape (B, K).
        kept (Dict[str, Tensor]): From :func:`keep_probabilities`.

    Returns:
        Tensor: Scores, at least 0 and finite, since a teacher's probability of 0 counts as the smallest normal number
        of float32, shape (B,).
    """
    return (torch.xlogy(probs, probs) - probs * kept_logits(kept, probs.shape[1])).sum(1).clamp_min(0)
