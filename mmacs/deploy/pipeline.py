"""The whole computation of a file as one module: from raw pixels to what the file gives."""

from typing import Any, Dict, List, Tuple

from torch import Tensor, nn

from mmacs.adapters.base import adapter_of
from mmacs.adapters.kinds import ClassifierAdapter
from mmacs.deploy.detection import detector_outputs, raw_outputs
from mmacs.deploy.modules.calls import begin_forward
from mmacs.deploy.pixels import Pixels
from mmacs.utils.errors import MmacsError

DETECTIONS = ('boxes', 'scores', 'labels')


class Pipeline(nn.Module):
    """Raw pixels in, outputs out; runs in eager, and can be traced.

    Args:
        model (nn.Module): A simulated model, or its reference, in eval mode.
        raw (bool): Whether a detector gives what its head predicts rather than boxes. Defaults to False.
        **detections: Of :func:`~.detection.detector_outputs`, such as ``max_detections``.

    Raises:
        MmacsError: If a setting has no effect on such a model, or its outputs are not known.

    Attributes:
        task (str): ``'detection'``, ``'classification'`` or ``'raw'``.
    """

    def __init__(self, model: nn.Module, raw: bool = False, **detections: Any) -> None:
        super().__init__()
        adapter = adapter_of(model)
        is_detector = adapter is not None and not isinstance(adapter, ClassifierAdapter)
        preprocessor = getattr(model, 'data_preprocessor', None)
        self.pixels = nn.Identity() if preprocessor is None else Pixels(preprocessor)
        if raw and not is_detector:
            raise MmacsError(f'raw is for detectors: a {type(model).__name__} gives the same without')
        if adapter is None:
            self.task, self.outputs = 'raw', PlainOutputs(model)
        elif isinstance(adapter, ClassifierAdapter):
            self.task, self.outputs = 'classification', raw_outputs(model)
        elif raw:
            self.task, self.outputs = 'raw', raw_outputs(model)
        else:
            self.task, self.outputs = 'detection', detector_outputs(model, **detections)
        given = [name for name, value in detections.items() if value is not None and value is not False]
        if given and self.task != 'detection':
            raise MmacsError(f'{", ".join(given)}: for boxes alone, of which this file has none')

    def forward(self, images: Tensor) -> Tuple[Tensor, ...]:
        """Returns the outputs, in the order of ``names``.

        Args:
            images (Tensor): Pixels from 0 to 255, float32, shape (B, 3, H, W), in the channel order of the data
                pipeline's loader. A model without a data preprocessor takes what it always does.
        """
        begin_forward(self)
        return self.outputs(self.pixels(images))

    @property
    def names(self) -> List[str]:
        """Names of the outputs; the model decides in its forward how many there are, so that one has to be made."""
        return list(DETECTIONS) if self.task == 'detection' else list(self.outputs.names)


class PlainOutputs(nn.Module):
    """A module of any kind, which gives the tensors that it returns.

    Args:
        model (nn.Module): Maps one tensor to tensors, in tuples, lists or dicts, if in any.
    """

    names: Tuple[str, ...] = ()

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tuple[Tensor, ...]:
        """Returns the tensors."""
        found: Dict[str, Tensor] = {}
        _collect('output', self.model(images), found)
        if not found:
            raise MmacsError(f'{type(self.model).__name__} returns no tensor that could be an output')
        self.names = tuple(found)
        return tuple(found.values())


def _collect(name: str, value: Any, found: Dict[str, Tensor]) -> None:
    if isinstance(value, Tensor):
        found[name] = value
    elif isinstance(value, dict):
        for key, each in value.items():
            _collect(f'{name}_{key}', each, found)
    elif isinstance(value, (tuple, list)):
        for number, each in enumerate(value):
            _collect(f'{name}_{number}', each, found)
