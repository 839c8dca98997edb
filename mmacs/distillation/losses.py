"""How far a student's predictions are from its teacher's. Pure functions; arithmetic is float32."""

from typing import Callable, Dict, Sequence, Tuple

import torch
from torch import Tensor
from torch.nn import functional

from mmacs.adapters.base import Predictions

_TINY = 1e-6  # keeps a ratio finite where the teacher's side of it is all zeros


def soft_cross_entropy(
    logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, sigmoid: bool = False
) -> Tensor:
    """``T^2 * sum_k -p_T(k) log p_q(k)`` with both distributions at temperature T.

    Hinton et al., Distilling the Knowledge in a Neural Network, 2015, section 2; the factor T^2 keeps the size of the
    gradient the same for all temperatures. With ``sigmoid`` the classes are independent, and each adds
    ``-p_T log p_q - (1 - p_T) log(1 - p_q)``.

    Args:
        logits (Tensor): The student's, shape (N, K).
        teacher_logits (Tensor): The teacher's, shape (N, K). No gradient flows to them.
        temperature (float): T, above 0.
        sigmoid (bool): Whether classes are independent, instead of exclusive.

    Returns:
        Tensor: float32, shape (N,).
    """
    ours, theirs = logits.float() / temperature, teacher_logits.detach().float() / temperature
    if sigmoid:
        cross = functional.binary_cross_entropy_with_logits(ours, theirs.sigmoid(), reduction='none').sum(-1)
    else:
        cross = functional.cross_entropy(ours, theirs.softmax(-1), reduction='none')
    return temperature**2 * cross


def kl_divergence(logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, sigmoid: bool = False) -> Tensor:
    """``T^2 * KL(p_T || p_q)``: :func:`soft_cross_entropy` less the teacher's entropy, so 0 where both agree.

    Its gradient is that of :func:`soft_cross_entropy`; only the value that is logged differs.
    """
    entropy = soft_cross_entropy(teacher_logits.detach(), teacher_logits, temperature, sigmoid)
    return soft_cross_entropy(logits, teacher_logits, temperature, sigmoid) - entropy


FORMS: Dict[str, Callable[..., Tensor]] = {'cross_entropy': soft_cross_entropy, 'kl': kl_divergence}


def confidence(predictions: Predictions) -> Tensor:
    """Highest probability of a class other than background, times the quality where there is one; shape (N,)."""
    logits = predictions.logits.detach().float()
    probs = logits.sigmoid() if predictions.sigmoid else logits.softmax(-1)[:, :-1]
    quality = 1.0 if predictions.quality is None else predictions.quality.detach().float().sigmoid()
    return probs.amax(-1) * quality


def detection_losses(
    ours: Sequence[Predictions], theirs: Sequence[Predictions], temperature: float = 1.0, form: str = 'kl'
) -> Tuple[Tensor, Tensor]:
    """Class and box divergence of a detector from its teacher (our formula).

    With c(i) the :func:`confidence` at place i, c_T the teacher's and c_q the student's, and sums over the places of
    all levels and images of the batch::

        u(i) = max(c_T(i), c_q(i))^2        L_cls = sum u(i) D(i) / (1 + sum u(i))
        v(i) = c_T(i)^2                     L_box = sum v(i) E(i) / (1 + sum v(i))

    D(i) is the ``form`` of :data:`FORMS` between the class distributions, plus that between the qualities. E(i) is the
    mean of |b_q - b_T| over the D numbers that code the box, in units of the teacher's v-weighted mean of |b_T| at that
    level: heads code boxes in units of their own, pixels, strides or anchors. Of a box per class, the one of the
    teacher's most probable class counts.

    The squares keep background from swamping objects: 100,000 anchors of confidence 0.01 weigh as much as 10 of 1.
    The student's own confidence is in u so that what it alone takes for an object counts as well. The 1 keeps a batch
    where neither sees anything from being judged by noise. No gradient flows through the weights.

    Args:
        ours (Sequence[Predictions]): The student's, level by level.
        theirs (Sequence[Predictions]): The teacher's at the same places.
        temperature (float): See :func:`soft_cross_entropy`.
        form (str): One of :data:`FORMS`.

    Returns:
        Tuple[Tensor, Tensor]: ``L_cls`` and ``L_box``, float32 scalars.
    """
    divergence = FORMS[form]
    class_sum, class_mass, box_sum, box_mass = (ours[0].logits.new_zeros((), dtype=torch.float32) for _ in range(4))
    for student, teacher in zip(ours, theirs):
        teachers = confidence(teacher)
        u, v = torch.maximum(teachers, confidence(student)).square(), teachers.square()
        moved = divergence(student.logits, teacher.logits, temperature, student.sigmoid)
        if student.quality is not None:
            moved = moved + divergence(student.quality[:, None], teacher.quality[:, None], temperature, True)
        class_sum, class_mass = class_sum + (u * moved).sum(), class_mass + u.sum()

        student_codes, codes = _codes_of_top_class(student, teacher)
        unit = (v * codes.abs().mean(-1)).sum() / v.sum().clamp_min(_TINY)
        shifted = (student_codes - codes).abs().mean(-1) / unit.clamp_min(_TINY)
        box_sum, box_mass = box_sum + (v * shifted).sum(), box_mass + v.sum()
    return class_sum / (1 + class_mass), box_sum / (1 + box_mass)


def _codes_of_top_class(student: Predictions, teacher: Predictions) -> Tuple[Tensor, Tensor]:
    """Box codes (N, D) of both, those of the teacher's most probable class where each class has its own."""
    student_codes, codes = student.codes.float(), teacher.codes.detach().float()
    if codes.ndim == 2:
        return student_codes, codes
    foreground = teacher.logits.detach()[:, : codes.shape[1]]
    rows, top = torch.arange(len(codes), device=codes.device), foreground.argmax(-1)
    return student_codes[rows, top], codes[rows, top]


def relative_error(features: Tensor, teacher_features: Tensor) -> Tensor:
    """``||f_q - f_T||^2 / ||f_T||^2`` over all elements, a float32 scalar; no gradient flows to the teacher's."""
    ours, theirs = features.float(), teacher_features.detach().float()
    return (ours - theirs).square().sum() / theirs.square().sum().clamp_min(_TINY)
