"""Student and teacher side by side: who can be compared, and what their predictions at the same places differ in."""

from typing import Dict, Sequence

from torch import Tensor, nn

from mmacs.adapters.base import Adapter, Predictions, adapter_of
from mmacs.adapters.kinds import ClassifierAdapter, QueryAdapter
from mmacs.distillation.losses import FORMS, detection_losses
from mmacs.utils.errors import MmacsError


def student_adapter(model: nn.Module, same_start: bool) -> Adapter:
    """Returns the adapter of a student.

    Args:
        model (nn.Module): The student, not wrapped for distributed training.
        same_start (bool): Whether the teacher is the model that the student started from.

    Raises:
        MmacsError: If mmacs can't distil this model.
    """
    adapter = adapter_of(model)
    comparable = adapter is not None and adapter.comparable
    if isinstance(adapter, ClassifierAdapter) and not comparable:
        raise MmacsError(
            f'DistillationHook needs a head that maps features to logits of exclusive classes, such as '
            f"MMPreTrain's LinearClsHead, not {type(model.head).__name__}"
        )
    if isinstance(adapter, QueryAdapter) and not comparable:
        raise MmacsError(
            f'DistillationHook cannot distil {type(model).__name__}: its queries are drawn from denoising or from '
            f"the encoder's proposals, so the student's and the teacher's don't correspond"
        )
    if isinstance(adapter, QueryAdapter) and not same_start:
        raise MmacsError(
            "DistillationHook cannot distil a DETR from another model, whose queries don't correspond to the "
            "student's: leave out teacher"
        )
    if not comparable:
        raise MmacsError(
            f"DistillationHook distils MMPreTrain classifiers and MMDetection's one-stage, Faster R-CNN, Cascade R-CNN "
            f'and DETR detectors, not {type(model).__name__}'
        )
    return adapter


def teacher_adapter(student: Adapter, teacher: nn.Module) -> Adapter:
    """Returns the adapter of a student's teacher.

    Raises:
        MmacsError: If the teacher is another kind of model.
    """
    adapter = adapter_of(teacher)
    if type(adapter) is not type(student) or not adapter.comparable or list(adapter.heads) != list(student.heads):
        raise MmacsError(
            f"the teacher, a {type(teacher).__name__}, does not predict at the student's places, a "
            f'{type(student.model).__name__}: choose a teacher with the same head, classes and strides'
        )
    return adapter


def prediction_losses(
    ours: Sequence[Predictions], theirs: Sequence[Predictions], temperature: float, form: str
) -> Dict[str, Tensor]:
    """Returns what a student's predictions cost beside its teacher's, unweighted.

    Args:
        ours (Sequence[Predictions]): The student's.
        theirs (Sequence[Predictions]): The teacher's.
        temperature (float): Of the class distributions.
        form (str): One of :data:`~mmacs.distillation.losses.FORMS`.

    Returns:
        Dict[str, Tensor]: Scalars: ``'loss_distill_cls'``, for classifiers the mean over the images, and, for
        detectors, ``'loss_distill_box'``, see :func:`~mmacs.distillation.losses.detection_losses`.

    Raises:
        MmacsError: If the predictions don't correspond.
    """
    if len(ours) != len(theirs):
        raise MmacsError(f'the teacher predicts at {len(theirs)} levels, the student at {len(ours)}')
    for own, other in zip(ours, theirs):
        require_same_shape('class logits', own.logits, other.logits)
        if own.codes is not None:
            require_same_shape('box predictions', own.codes, other.codes)
    if ours[0].codes is None:
        return {'loss_distill_cls': FORMS[form](ours[0].logits, theirs[0].logits, temperature).mean()}
    class_loss, box_loss = detection_losses(ours, theirs, temperature, form)
    return {'loss_distill_cls': class_loss, 'loss_distill_box': box_loss}


def require_same_shape(what: str, ours: Tensor, theirs: Tensor) -> None:
    """Raise an :class:`~mmacs.utils.errors.MmacsError` unless student and teacher give tensors of one shape."""
    if ours.shape != theirs.shape:
        raise MmacsError(
            f"the teacher's {what} have shape {tuple(theirs.shape)}, the student's {tuple(ours.shape)}: choose a "
            f'teacher with the same head, classes and strides'
        )
