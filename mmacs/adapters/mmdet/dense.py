"""MMDetection's one-stage detectors."""

from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from mmdet.models import RPN, DetectionTransformer, SingleStageDetector
from mmdet.models.dense_heads import CenterNetUpdateHead, GuidedAnchorHead, LDHead, RepPointsHead, VFNetHead
from torch import Tensor, nn

from mmacs.adapters.base import Calls, Predictions, register
from mmacs.adapters.kinds import DenseAdapter, DenseLevel, DetectionRules
from mmacs.adapters.mmdet.dense_boxes import boxes_at, is_decodable
from mmacs.adapters.mmdet.dense_outputs import dense_levels, dense_predictions, has_fixed_places, named_maps
from mmacs.adapters.mmdet.detection_rules import dense_rules
from mmacs.adapters.mmdet.head_loss import head_loss, kept_buffers, not_averaged
from mmacs.utils.nested import mapped

_OTHERWISE_IN_TRAINING = (CenterNetUpdateHead, GuidedAnchorHead, RepPointsHead, VFNetHead)


class WithFeatures(NamedTuple):
    """Outputs of a head that gives others in training, and what it saw."""

    outputs: Tuple[Any, ...]
    features: Sequence[Tensor]


@register
class OneStageDetector(DenseAdapter):
    """Detectors with a dense ``bbox_head``; also a lone RPN, which is not scored, since it knows no classes."""

    heads = ('bbox_head',)

    @classmethod
    def fits(cls, model: nn.Module) -> bool:
        """See :meth:`Adapter.fits`."""
        head = getattr(model, 'bbox_head', None)
        return hasattr(head, 'predict_by_feat') and not isinstance(model, DetectionTransformer)

    @property
    def scorable(self) -> bool:
        """Whether it tells classes and sees nothing but images."""
        return not isinstance(self.model, RPN) and not hasattr(self.model, 'language_model')

    @property
    def comparable(self) -> bool:
        """See :func:`~mmacs.adapters.mmdet.dense_outputs.has_fixed_places`."""
        sees_images_alone = isinstance(self.model, SingleStageDetector) and not hasattr(self.model, 'language_model')
        return sees_images_alone and has_fixed_places(self.model.bbox_head)

    @property
    def decodable(self) -> bool:
        """See :func:`~mmacs.adapters.mmdet.dense_boxes.is_decodable`."""
        return is_decodable(self.model.bbox_head)

    @property
    def has_loss(self) -> bool:
        """Whether the head does not learn from another detector."""
        return not isinstance(self.model.bbox_head, LDHead)

    @property
    def _differs_in_training(self) -> bool:
        head = self.model.bbox_head
        return isinstance(head, _OTHERWISE_IN_TRAINING) or getattr(head, 'norm_on_bbox', False)

    def hooked_module(self) -> Optional[nn.Module]:
        """Returns the head, unless it gives other outputs in training."""
        return None if self._differs_in_training else self.model.bbox_head

    def outputs(self, inputs: Tensor, data_samples: List[Any]) -> Any:
        """Returns what the head returns; with its inputs, if its loss needs other outputs."""
        features = self.model.extract_feat(inputs)
        outputs = self.model.bbox_head(features)
        return WithFeatures(outputs, features) if self._differs_in_training else outputs

    def levels(self, outputs: Any) -> List[DenseLevel]:
        """See :meth:`DenseAdapter.levels`."""
        return dense_levels(self.model.bbox_head, _head_outputs(outputs))

    def raw(self, inputs: Tensor) -> Dict[str, Tensor]:
        """Returns the head's maps, ``cls_score_0`` and so on; see :meth:`Adapter.raw`."""
        return named_maps(_head_outputs(self.outputs(inputs, [])))

    def decode(self, levels: Sequence[DenseLevel], anchors: Sequence[Tensor]) -> Tensor:
        """See :meth:`DenseAdapter.decode`."""
        return boxes_at(self.model.bbox_head, levels, anchors)

    def detections(self, outputs: Any, data_samples: List[Any]) -> List[Any]:
        """See :meth:`DenseAdapter.detections`."""
        metas = [sample.metainfo for sample in data_samples]
        outputs = mapped(lambda maps: maps.detach().float(), _head_outputs(outputs))
        return self.model.bbox_head.predict_by_feat(*outputs, batch_img_metas=metas, rescale=False)

    def rules(self) -> DetectionRules:
        """See :meth:`DenseAdapter.rules`."""
        return dense_rules(self.model)

    def loss_outputs(self, outputs: Any) -> Any:
        """Returns the head's outputs as in training, of layers in eval mode."""
        if not isinstance(outputs, WithFeatures):
            return outputs
        head = self.model.bbox_head
        training, head.training = head.training, True  # of the head alone: its layers keep their mode
        try:
            return head([feature.float() for feature in outputs.features])
        finally:
            head.training = training

    def loss(self, outputs: Any, sample: Any) -> Tensor:
        """See :meth:`DenseAdapter.loss`."""
        return head_loss(self.model.bbox_head, outputs, sample)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """See :meth:`DenseAdapter.alone`."""
        head = self.model.bbox_head
        with not_averaged(head), kept_buffers(head):
            yield

    def predictions(self, calls: Calls) -> List[Predictions]:
        """See :meth:`Adapter.predictions`."""
        return dense_predictions(self.model.bbox_head, calls['bbox_head'][0].output)


def _head_outputs(outputs: Any) -> Any:
    return outputs.outputs if isinstance(outputs, WithFeatures) else outputs
