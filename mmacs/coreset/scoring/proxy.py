"""Scoring at less than full cost: smaller images, half precision."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ContextManager, List, Tuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from mmacs.utils.checks import is_number
from mmacs.utils.errors import MmacsError, unknown_name

PRECISIONS = ('float32', 'bfloat16')


@dataclass(frozen=True)
class Proxy:
    """At which size and precision images are scored, by the quantized model and by the teacher alike.

    Args:
        resolution (float): Factor on the sides of the preprocessed images, above 0 and at most 1.
        precision (str): ``'float32'`` or ``'bfloat16'`` (autocast).

    Raises:
        MmacsError: If the factor is out of range or the precision unknown.
    """

    resolution: float = 1.0
    precision: str = 'float32'

    def __post_init__(self) -> None:
        if not is_number(self.resolution) or not 0 < self.resolution <= 1:
            raise MmacsError(f'resolution must be above 0 and at most 1, got {self.resolution!r}')
        if self.precision not in PRECISIONS:
            raise unknown_name('precision', self.precision, PRECISIONS)

    @property
    def exact(self) -> bool:
        """Whether images are scored as they are evaluated."""
        return self == Proxy()

    def autocast(self, device: torch.device) -> ContextManager:
        """Context in which the models compute."""
        return torch.autocast(device.type, torch.bfloat16) if self.precision == 'bfloat16' else nullcontext()

    def shrink(self, inputs: Tensor, data_samples: List[Any], divisor: int) -> Tuple[Tensor, List[Any]]:
        """Shrink preprocessed images, padded to multiples of the divisor again, and their boxes.

        Args:
            inputs (Tensor): Shape (B, 3, H, W).
            data_samples (list): Their data samples; boxes are in pixels of ``inputs``.
            divisor (int): Of the sides, as in the model's data preprocessor.

        Returns:
            Tuple[Tensor, list]: New images and data samples; the given ones stay as they are.
        """
        if self.resolution == 1:
            return inputs, data_samples
        height, width = (max(1, round(side * self.resolution)) for side in inputs.shape[-2:])
        smaller = interpolate(inputs, (height, width), mode='bilinear', antialias=True)
        smaller = pad(smaller, (0, -width % divisor, 0, -height % divisor))
        return smaller, [self._shrink_sample(sample, tuple(smaller.shape[-2:])) for sample in data_samples]

    def _shrink_sample(self, sample: Any, padded: Tuple[int, int]) -> Any:
        sample = sample.clone()
        sizes = {'batch_input_shape': padded, 'pad_shape': padded}
        if 'img_shape' in sample:
            sizes['img_shape'] = tuple(max(1, round(side * self.resolution)) for side in sample.img_shape[:2])
        sample.set_metainfo({key: size for key, size in sizes.items() if key in sample})
        for name in ('gt_instances', 'ignored_instances'):
            instances = sample.get(name)
            if instances is not None and 'bboxes' in instances:
                instances = instances.clone()  # a cloned sample still shares its instances
                instances.bboxes = instances.bboxes * self.resolution
                setattr(sample, name, instances)
        return sample
