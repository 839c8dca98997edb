"""Adds what a model's teacher has to say to the losses that the model returns, without wrapping the model."""

from typing import Any, Dict, List, Optional, Sequence, Union

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmacs.adapters.base import Calls
from mmacs.adapters.kinds import ClassifierAdapter
from mmacs.distillation.capture import Recorder, match_layers
from mmacs.distillation.correspondence import prediction_losses, require_same_shape, student_adapter
from mmacs.distillation.losses import FORMS, relative_error
from mmacs.distillation.teachers import KeptTeacher, LiveTeacher, ReadLogits
from mmacs.utils.checks import is_number, require_known, require_patterns
from mmacs.utils.errors import MmacsError
from mmacs.utils.nested import tensors_of


class Distiller:
    """Between :meth:`attach` and :meth:`detach`, ``model(..., mode='loss')`` has distillation terms in its losses.

    The teacher is no module of the model: not in its state, parameters or modes. Outside, the model has no hook, so
    copies of it know nothing of the teacher.

    Args:
        model (nn.Module): The student, not wrapped for distributed training.
        teacher (nn.Module or Callable): The teacher, frozen and in eval mode; or, of a classifier, what reads its
            logits (B, K), given B data samples and K.
        same_start (bool): Whether the teacher is the model that the student started from.
        weight (float): Of the distillation terms, above 0. A classifier's loss against labels gets ``1 - weight``.
        temperature (float): Of the class distributions, above 0.
        form (str): ``'cross_entropy'`` or ``'kl'``, see :mod:`mmacs.distillation.losses`.
        box_weight (float): Of a detector's box term, relative to the class term.
        layers (str or Sequence[str], optional): Patterns of layers whose outputs are to be the teacher's, see
            :func:`~mmacs.distillation.capture.match_layers`.
        layer_weight (float): Of the mean over those layers of :func:`~mmacs.distillation.losses.relative_error`.

    Raises:
        MmacsError: If a value is out of range, the model can't be distilled, or layers don't exist.
    """

    def __init__(
        self,
        model: nn.Module,
        teacher: Union[nn.Module, ReadLogits],
        same_start: bool = True,
        weight: float = 0.5,
        temperature: float = 1.0,
        form: str = 'cross_entropy',
        box_weight: float = 1.0,
        layers: Optional[Union[str, Sequence[str]]] = None,
        layer_weight: float = 1.0,
    ) -> None:
        runs = isinstance(teacher, nn.Module)
        check_settings(weight, temperature, form, box_weight, layers, layer_weight, from_cache=not runs)
        self._student = student_adapter(model, same_start)
        self._replaces_labels = isinstance(self._student, ClassifierAdapter)
        if self._replaces_labels and weight > 1:
            raise MmacsError(f'weight must be at most 1 for a classifier, whose labels have 1 - weight, got {weight}')
        self.weight, self.temperature, self.form, self.box_weight = weight, temperature, form, box_weight
        self.layers = match_layers(model, layers) if layers else []
        self.layer_weight = layer_weight
        self._teacher = (
            LiveTeacher(self._student, teacher, self.layers) if runs else KeptTeacher(self._student, teacher)
        )
        self.model, self.teacher = model, teacher
        self._ours = Recorder(model, [*self._student.heads, *self.layers])
        self._handles: List[RemovableHandle] = []

    def attach(self) -> None:
        """Have the model's losses extended from now on."""
        self.detach()
        self._handles = [
            self.model.register_forward_pre_hook(self._begin, with_kwargs=True),
            self.model.register_forward_hook(self._end, with_kwargs=True),
        ]

    def detach(self) -> None:
        """Leave the model as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._ours.stop()

    def _begin(self, model: nn.Module, args: Any, kwargs: Dict[str, Any]) -> None:
        if _arguments(args, kwargs).get('mode') == 'loss':
            self._ours.start()

    def _end(self, model: nn.Module, args: Any, kwargs: Dict[str, Any], losses: Any) -> Optional[Dict[str, Any]]:
        arguments = _arguments(args, kwargs)
        if arguments.get('mode') != 'loss':
            return None
        ours = self._ours.stop()
        theirs = self._teacher.calls(arguments['inputs'], arguments['data_samples'], ours)
        return self.extended(losses, ours, theirs)

    def extended(self, losses: Dict[str, Any], ours: Calls, theirs: Calls) -> Dict[str, Any]:
        """Returns the losses of the student with the distillation terms, weighted.

        Args:
            losses (dict): What the model returned: tensors or lists of tensors.
            ours (Calls): What was recorded in the student.
            theirs (Calls): The teacher's.

        Returns:
            dict: A new dict. A classifier's ``'loss'`` is in it as ``'loss_cls'``, since MMEngine logs the total as
            ``'loss'``.
        """
        losses = dict(losses)
        if self._replaces_labels:
            losses = {
                'loss_cls' if name == 'loss' else name: _scaled(value, 1 - self.weight) if 'loss' in name else value
                for name, value in losses.items()
            }
        predictions = self._student.predictions(ours), self._teacher.adapter.predictions(theirs)
        terms = prediction_losses(*predictions, self.temperature, self.form)
        weights = {'loss_distill_cls': self.weight, 'loss_distill_box': self.weight * self.box_weight}
        losses.update({name: weights[name] * value for name, value in terms.items()})
        if self.layers:
            errors = [error for name in self.layers for error in _layer_errors(name, ours, theirs)]
            losses['loss_correction'] = self.layer_weight * torch.stack(errors).mean()
        return losses


def check_settings(
    weight: float,
    temperature: float,
    form: str,
    box_weight: float,
    layers: Optional[Union[str, Sequence[str]]],
    layer_weight: float,
    from_cache: bool = False,
) -> None:
    """Raise an :class:`~mmacs.utils.errors.MmacsError` unless the settings of a :class:`Distiller` are in range.

    With ``from_cache`` the teacher does not run.
    """
    for name, value in (('weight', weight), ('temperature', temperature), ('layer_weight', layer_weight)):
        if not is_number(value) or value <= 0:
            raise MmacsError(f'{name} must be a number above 0, got {value!r}')
    if not is_number(box_weight) or box_weight < 0:
        raise MmacsError(f'box_weight must be a number of at least 0, got {box_weight!r}')
    require_known('form', form, FORMS)
    if layers is not None:
        require_patterns('layers', layers)
    if layers and from_cache:
        raise MmacsError(
            f"layers={layers!r} corrects features towards the teacher's, and a cache has its outputs alone: leave out "
            f'layers or from_cache'
        )


def _arguments(args: Sequence[Any], kwargs: Dict[str, Any]) -> Dict[str, Any]:
    """Arguments of an MMEngine model's ``forward`` by name, however they were passed."""
    return {**dict(zip(('inputs', 'data_samples', 'mode'), args)), **kwargs}


def _scaled(value: Any, factor: float) -> Any:
    return [factor * part for part in value] if isinstance(value, (list, tuple)) else factor * value


def _layer_errors(name: str, ours: Calls, theirs: Calls) -> List[Tensor]:
    """Relative errors of a layer's outputs, of all its calls."""
    own, other = (tensors_of([call.output for call in calls[name]]) for calls in (ours, theirs))
    if not own or len(own) != len(other):
        raise MmacsError(
            f'layers: {name!r} gave {len(own)} tensors in the student and {len(other)} in the teacher: choose a layer '
            f'that both run'
        )
    for student, teacher in zip(own, other):
        require_same_shape(f'outputs of layer {name!r}', student, teacher)
    return [relative_error(student, teacher) for student, teacher in zip(own, other)]
