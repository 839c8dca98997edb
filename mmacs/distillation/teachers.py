"""Where a student hears what its teacher predicts: the teacher runs beside it, or its logits were kept."""

from contextlib import contextmanager
from typing import Any, Callable, Iterator, List, Sequence

import torch
from torch import Tensor, nn

from mmacs.adapters.base import Adapter, Call, Calls
from mmacs.adapters.kinds import ClassifierAdapter
from mmacs.distillation.capture import Recorder
from mmacs.distillation.correspondence import teacher_adapter
from mmacs.utils.errors import MmacsError
from mmacs.utils.random_state import kept_random_state

ReadLogits = Callable[[List[Any], int], Tensor]  # of the images of B data samples, of K classes: (B, K)


class LiveTeacher:
    """A teacher that runs on the student's images, in each training step.

    Args:
        student (Adapter): The student.
        model (nn.Module): The teacher, frozen and in eval mode.
        layers (Sequence[str]): Names of layers that are recorded beside the heads.

    Raises:
        MmacsError: If it has no such layers, or does not predict at the student's places.
    """

    def __init__(self, student: Adapter, model: nn.Module, layers: Sequence[str]) -> None:
        modules = dict(model.named_modules())
        for name in layers:
            if name not in modules:
                raise MmacsError(f'layers: the teacher has no layer {name!r} to correct the student with')
        self.adapter = teacher_adapter(student, model)
        self._recorder = Recorder(model, [*student.heads, *layers])
        self._heads = [modules[name] for name in student.heads]

    def calls(self, inputs: Tensor, data_samples: List[Any], ours: Calls) -> Calls:
        """Returns the teacher's calls for a batch.

        Args:
            inputs (Tensor): Preprocessed images, shape (B, 3, H, W).
            data_samples (list): Their data samples.
            ours (Calls): The student's.
        """
        self._recorder.start()
        gpus = [inputs.device] if inputs.is_cuda else []
        try:
            with torch.no_grad(), kept_random_state(gpus), _as_in_training(self._heads):
                self.adapter.run_like(inputs, data_samples, ours)
        finally:
            theirs = self._recorder.stop()
        return theirs


class KeptTeacher:
    """A classifier's teacher whose logits of the training images were kept, so that it need not run.

    Args:
        student (Adapter): The student.
        read (Callable): Reads the logits of the images of data samples, given the number of classes.

    Raises:
        MmacsError: If the student is no classifier.
    """

    def __init__(self, student: Adapter, read: ReadLogits) -> None:
        if not isinstance(student, ClassifierAdapter):
            raise MmacsError(
                f'from_cache distils classifiers, not a {type(student.model).__name__}: of a detector the cache has '
                f"the teacher's surest places in the test pipeline's view of an image, and distillation compares all "
                f'places of the view that is trained on: leave out from_cache, so that the teacher runs'
            )
        self.adapter = student
        self._read = read

    def calls(self, inputs: Tensor, data_samples: List[Any], ours: Calls) -> Calls:
        """Returns the one call of the head that would have given the logits, see :meth:`LiveTeacher.calls`."""
        own = self.adapter.predictions(ours)[0].logits
        return {self.adapter.heads[0]: [Call((), self._read(data_samples, own.shape[1]).to(own.device))]}


@contextmanager
def _as_in_training(heads: Sequence[nn.Module]) -> Iterator[None]:
    """Tell heads themselves, not the layers inside, that they train.

    Some code boxes otherwise then (FCOS in strides instead of pixels) or have further outputs (VFNet), as the
    student's does; batch norm and dropout inside stay in eval mode.
    """
    modes = [(head, head.training) for head in heads]
    for head in heads:
        head.training = True
    try:
        yield
    finally:
        for head, training in modes:
            head.training = training
