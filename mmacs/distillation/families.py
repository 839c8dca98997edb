"""Kinds of models: where their predictions are recorded, how their teacher predicts, what is compared."""

from importlib.util import find_spec
from inspect import signature
from typing import Any, Dict, List, Sequence

from torch import Tensor, nn

from mmacs.distillation.capture import Call
from mmacs.distillation.losses import FORMS
from mmacs.utils.errors import MmacsError

Calls = Dict[str, List[Call]]


class Family:
    """What distillation needs to know of a kind of model.

    Attributes:
        heads (Sequence[str]): Names of the modules whose calls are recorded, in the student and in the teacher.
        replaces_labels (bool): Whether the loss against labels gives way: total = (1 - weight) hard + weight soft.
    """

    heads: Sequence[str] = ()
    replaces_labels = False

    def run_teacher(self, teacher: nn.Module, inputs: Tensor, data_samples: List[Any], calls: Calls) -> None:
        """Run the teacher up to its heads on the batch, where the student's ``calls`` have been recorded already."""
        raise NotImplementedError

    def losses(
        self, student: nn.Module, ours: Calls, teacher: nn.Module, theirs: Calls, temperature: float, form: str
    ) -> Dict[str, Tensor]:
        """Unweighted scalars ``'loss_distill_cls'`` and, for detectors, ``'loss_distill_box'``.

        Raises:
            MmacsError: If the predictions of both don't correspond.
        """
        raise NotImplementedError


class Classifier(Family):
    """MMPreTrain classifiers whose head maps features to logits of exclusive classes."""

    heads = ('head',)
    replaces_labels = True

    def __init__(self, model: nn.Module) -> None:
        if getattr(model.head.loss_module, 'use_sigmoid', False) or len(signature(model.head.forward).parameters) != 1:
            raise MmacsError(
                f'DistillationHook needs a head that maps features to logits of exclusive classes, such as '
                f"MMPreTrain's LinearClsHead, not {type(model.head).__name__}"
            )

    def run_teacher(self, teacher: nn.Module, inputs: Tensor, data_samples: List[Any], calls: Calls) -> None:
        """See :meth:`Family.run_teacher`."""
        teacher.head(teacher.extract_feat(inputs))

    def losses(
        self, student: nn.Module, ours: Calls, teacher: nn.Module, theirs: Calls, temperature: float, form: str
    ) -> Dict[str, Tensor]:
        """The mean over the images of the batch."""
        logits, teacher_logits = ours['head'][0].output, theirs['head'][0].output
        require_same_shape('class logits', logits, teacher_logits)
        return {'loss_distill_cls': FORMS[form](logits, teacher_logits, temperature).mean()}


def family_of(model: nn.Module, same_start: bool) -> Family:
    """The family of a model.

    Args:
        model (nn.Module): The student, not wrapped for distributed training.
        same_start (bool): Whether the teacher is the model that the student started from.

    Raises:
        MmacsError: If mmacs can't distil this model.
    """
    if hasattr(getattr(model, 'head', None), 'loss_module'):
        return Classifier(model)
    if find_spec('mmdet'):
        from mmacs.distillation.detection import detector_family

        return detector_family(model, same_start)
    raise unsupported(model)


def unsupported(model: nn.Module) -> MmacsError:
    """The error for a model of no known family."""
    return MmacsError(
        f"DistillationHook distils MMPreTrain classifiers and MMDetection's one-stage, Faster R-CNN, Cascade R-CNN and "
        f'DETR detectors, not {type(model).__name__}'
    )


def require_same_shape(what: str, ours: Tensor, theirs: Tensor) -> None:
    """Raise an :class:`~mmacs.utils.errors.MmacsError` unless student and teacher predict tensors of one shape."""
    if ours.shape != theirs.shape:
        raise MmacsError(
            f"the teacher's {what} have shape {tuple(theirs.shape)}, the student's {tuple(ours.shape)}: choose a "
            f'teacher with the same head, classes and strides'
        )
