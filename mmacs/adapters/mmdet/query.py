"""MMDetection's query-based detectors: DETR, Conditional, DAB and Deformable DETR, DINO."""

from types import SimpleNamespace
from typing import Any, Dict, List, Optional

import torch
from mmdet.models import DetectionTransformer
from mmdet.models.dense_heads import DETRHead
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from torch import Tensor, nn

from mmacs.adapters.base import Calls, Predictions, register
from mmacs.adapters.kinds import QueryAdapter, QueryOutputs
from mmacs.quantization.layers.base import shadowed


@register
class DETR(QueryAdapter):
    """Detectors of the DETR family."""

    heads = ('bbox_head',)

    @classmethod
    def fits(cls, model: nn.Module) -> bool:
        """See :meth:`Adapter.fits`."""
        return isinstance(model, DetectionTransformer)

    @property
    def scorable(self) -> bool:
        """Whether the head is a DETR's and nothing but images is seen."""
        head = getattr(self.model, 'bbox_head', None)
        return isinstance(head, DETRHead) and not hasattr(self.model, 'language_model')

    @property
    def comparable(self) -> bool:
        """Whether queries are learned ones alone: drawn from denoising or proposals, they don't correspond."""
        return not hasattr(self.model, 'dn_query_generator') and not self.proposed

    @property
    def proposed(self) -> bool:
        """See :attr:`QueryAdapter.proposed`."""
        return getattr(self.model, 'as_two_stage', False)

    @property
    def activation(self) -> str:
        """See :attr:`QueryAdapter.activation`."""
        return 'sigmoid' if self.model.bbox_head.loss_cls.use_sigmoid else 'softmax'

    def outputs(self, inputs: Tensor, data_samples: List[Any]) -> QueryOutputs:
        """See :meth:`Adapter.outputs`; most heads' own ``predict`` looks at the last decoder layer alone."""
        head = self.model.bbox_head
        head_inputs = self.model.forward_transformer(self.model.extract_feat(inputs), data_samples)
        with shadowed(head, predict_by_feat=lambda logits, boxes, **others: (logits, boxes)):
            logits, boxes = head.predict(**head_inputs, batch_data_samples=[])
        return QueryOutputs(logits[-1].float(), boxes[-1].float())

    def dry_run(self, images: Tensor) -> None:
        """See :meth:`Adapter.dry_run`; no image is padded."""
        self.model(images, self.whole_images(images))

    def raw(self, inputs: Tensor) -> Dict[str, Tensor]:
        """Returns logits and boxes after the last decoder layer; see :meth:`Adapter.raw`."""
        logits, boxes = self.outputs(inputs, self.whole_images(inputs))
        return {'cls_score': logits, 'bbox_pred': boxes}

    @property
    def max_detections(self) -> Optional[int]:
        """See :attr:`QueryAdapter.max_detections`."""
        return (self.model.bbox_head.test_cfg or {}).get('max_per_img')

    def whole_images(self, inputs: Tensor) -> List[Any]:
        """Returns one data sample, which stands for all."""
        size = tuple(inputs.shape[-2:])
        return [SimpleNamespace(img_shape=size, batch_input_shape=size)]

    def decode(self, boxes: Tensor, data_samples: List[Any]) -> Tensor:
        """See :meth:`QueryAdapter.decode`."""
        sizes = [[boxes.new_full((), side) for side in sample.img_shape[1::-1] * 2] for sample in data_samples]
        return bbox_cxcywh_to_xyxy(boxes) * torch.stack([torch.stack(sides) for sides in sizes])[:, None]

    def detections(self, outputs: QueryOutputs, data_samples: List[Any]) -> List[Any]:
        """See :meth:`QueryAdapter.detections`."""
        metas = [sample.metainfo for sample in data_samples]
        one_layer = (part[None] for part in outputs)
        return self.model.bbox_head.predict_by_feat(*one_layer, batch_img_metas=metas, rescale=False)

    def predictions(self, calls: Calls) -> List[Predictions]:
        """All queries of all images after the last decoder layer, as one level."""
        layers_logits, layers_boxes = calls['bbox_head'][0].output
        sigmoid = self.activation == 'sigmoid'
        return [Predictions(layers_logits[-1].flatten(0, 1), layers_boxes[-1].flatten(0, 1), sigmoid)]
