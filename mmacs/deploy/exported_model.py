"""``type='mmacs.ExportedModel'``: an exported file in the place of a model, in MMEngine's loops."""

from copy import copy
from typing import Dict, List, Optional, Sequence, Union

import numpy as np
import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor

from mmacs.deploy.exported_file import open_exported
from mmacs.deploy.preprocessing import in_one_batch
from mmacs.registry import MODELS
from mmacs.utils.checks import require_known
from mmacs.utils.errors import MmacsError


@MODELS.register_module()
class ExportedModel(BaseModel):
    """Predicts with an exported file, from what a config's data pipeline gives.

    Images are taken in raw pixels, as the pipeline resizes them, and padded as the file says. Detections come back in
    pixels of the original image, as MMDetection's models give them, class scores as MMPreTrain's.

    Args:
        file (str): The exported file.
        backend (str, optional): ``'onnxruntime'`` or ``'openvino'``. Defaults to ``'openvino'`` for ``.xml``, else to
            ``'onnxruntime'``.
        threads (int): Number of threads; 0 takes as many as there are cores. Defaults to 0.
        data_preprocessor (dict, optional): Not used, since normalisation is part of the file; MMEngine's Runner hands
            on the one that MMPreTrain's configs have beside the model.

    Raises:
        MmacsError: If the file cannot be opened, was changed, or gives neither detections nor class scores.
    """

    def __init__(
        self,
        file: str,
        backend: Optional[str] = None,
        threads: int = 0,
        data_preprocessor: Optional[Union[dict, torch.nn.Module]] = None,
    ) -> None:
        super().__init__(data_preprocessor=BaseDataPreprocessor())
        self.runtime, self.metadata = open_exported(file, backend, threads)
        if 'scores' not in self.runtime.outputs:
            raise MmacsError(f'{file} gives {", ".join(self.runtime.outputs)}, and no detections or class scores')

    def forward(
        self,
        inputs: Union[Tensor, Sequence[Tensor]],
        data_samples: Optional[List[BaseDataElement]] = None,
        mode: str = 'tensor',
    ) -> Union[Dict[str, np.ndarray], List[BaseDataElement]]:
        """Predict for a batch.

        Args:
            inputs (Tensor or Sequence[Tensor]): Raw pixels 0 to 255, (3, H, W) each, as the pipeline packs them.
            data_samples (list, optional): What the pipeline knows of each image; needed to predict.
            mode (str): ``'predict'``, or ``'tensor'`` for the file's own outputs.

        Returns:
            list or dict: The data samples with ``pred_instances``, or with ``pred_score`` and ``pred_label``; with
            ``'tensor'`` arrays by name.

        Raises:
            MmacsError: If the mode is ``'loss'``, or an image does not fit into the file.
        """
        if mode == 'loss':
            raise MmacsError('an exported file cannot be trained: train the checkpoint that it was made of')
        require_known('mode', mode, ('predict', 'tensor'))
        images = [image.detach().cpu().numpy() for image in inputs]
        outputs = self._outputs(images)
        if mode == 'tensor':
            return outputs
        samples = [_with_plain_boxes(sample) for sample in data_samples or ()]
        if len(samples) != len(images):
            raise MmacsError(f'{len(images)} images came with {len(samples)} data samples')
        detects = 'boxes' in outputs
        if detects == any(hasattr(sample, 'set_pred_score') for sample in samples):
            found, wanted = ('detections', 'classifier') if detects else ('class scores', 'detector')
            raise MmacsError(f'the exported file gives {found}, and the data are those of a {wanted}: take its config')
        predict = self._detections if detects else self._classes
        for number, sample in enumerate(samples):
            predict(sample, {name: torch.from_numpy(values[number]) for name, values in outputs.items()})
        return samples

    def _outputs(self, images: Sequence[np.ndarray]) -> Dict[str, np.ndarray]:
        if not images:
            raise MmacsError('there is no image in the batch')
        shape, pad = self.runtime.inputs['images'], self.metadata.preprocessing.pad
        size = shape[0] or len(images)
        parts = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            filled = [*part, *[part[-1]] * (size - len(part))]  # a file of a fixed batch takes no fewer
            found = self.runtime.run({'images': in_one_batch(filled, pad, shape)})
            parts.append({name: values[: len(part)] for name, values in found.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _detections(self, sample: BaseDataElement, found: Dict[str, Tensor]) -> None:
        boxes, scores, labels = found['boxes'], found['scores'], found['labels']
        width, height = sample.get('scale_factor', (1.0, 1.0))
        rows = scores > 0
        boxes = boxes[rows] / boxes.new_tensor([width, height, width, height])
        original = sample.get('ori_shape')
        if original is not None:  # what lies in the padding belongs to no image
            boxes = boxes.clamp(min=0).minimum(boxes.new_tensor([original[1], original[0]] * 2))
        sample.pred_instances = InstanceData(bboxes=boxes, scores=scores[rows], labels=labels[rows])

    def _classes(self, sample: BaseDataElement, found: Dict[str, Tensor]) -> None:
        scores = found['scores']
        sample.set_pred_score(scores).set_pred_label(scores.argmax())


def _with_plain_boxes(sample: BaseDataElement) -> BaseDataElement:
    """A copy whose annotations have tensors for boxes, as MMDetection's own preprocessor leaves them."""
    made = sample.new()
    for name in ('gt_instances', 'ignored_instances'):
        boxes = getattr(sample.get(name), 'bboxes', None)
        if hasattr(boxes, 'tensor'):
            setattr(made, name, copy(sample.get(name)))
            made.get(name).bboxes = boxes.tensor
    return made
