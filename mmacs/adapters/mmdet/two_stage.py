"""MMDetection's two-stage detectors: Faster R-CNN, Mask R-CNN, Cascade R-CNN and their kin."""

from typing import Any, List, Sequence, Tuple

import torch
from mmdet.models import CascadeRoIHead, StandardRoIHead, TwoStageDetector
from mmdet.models.layers import multiclass_nms
from mmdet.models.roi_heads import DynamicRoIHead
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmacs.adapters.base import Calls, Predictions, register
from mmacs.adapters.kinds import DenseLevel, DetectionRules, RoIOutputs, RoIs, TwoStageAdapter
from mmacs.adapters.mmdet.dense_boxes import boxes_at
from mmacs.adapters.mmdet.dense_outputs import dense_levels, dense_predictions, has_fixed_places
from mmacs.adapters.mmdet.detection_rules import proposal_rules, roi_rules
from mmacs.adapters.mmdet.roi_features import roi_features


@register
class RCNN(TwoStageAdapter):
    """Detectors with an RPN and a RoI head with one box branch or a cascade of them."""

    @classmethod
    def fits(cls, model: nn.Module) -> bool:
        """See :meth:`Adapter.fits`."""
        return isinstance(model, TwoStageDetector)

    @property
    def scorable(self) -> bool:
        """Whether the RoI head predicts at any proposals from images alone."""
        roi_head = getattr(self.model, 'roi_head', None)
        known = (StandardRoIHead.predict_bbox, CascadeRoIHead.predict_bbox)
        predicts = self.model.with_rpn and getattr(type(roi_head), 'predict_bbox', None) in known
        return predicts and not getattr(roi_head, 'with_semantic', False)

    @property
    def comparable(self) -> bool:
        """Whether the RPN and the box heads of all stages code what they predict in a way that is known."""
        model = self.model
        if not model.with_rpn or not model.with_roi_head:
            return False
        if type(model.roi_head) not in (StandardRoIHead, DynamicRoIHead, CascadeRoIHead):
            return False
        box_heads = [model.get_submodule(name) for name in self._of_stages('bbox_head')]
        plain = all(head.with_cls and head.with_reg and not head.custom_cls_channels for head in box_heads)
        return plain and has_fixed_places(model.rpn_head)

    @property
    def heads(self) -> Sequence[str]:
        """The RPN, and of each stage the part that reads the features at RoIs, and the box head."""
        return ['rpn_head', *self._of_stages('bbox_roi_extractor'), *self._of_stages('bbox_head')]

    @property
    def _cascaded(self) -> bool:
        return isinstance(self.model.roi_head, CascadeRoIHead)

    def _of_stages(self, part: str) -> List[str]:
        stages = [f'.{stage}' for stage in range(self.model.roi_head.num_stages)] if self._cascaded else ['']
        return [f'roi_head.{part}{stage}' for stage in stages]

    def outputs(self, inputs: Tensor, data_samples: List[Any]) -> RoIOutputs:
        """See :meth:`Adapter.outputs`."""
        features = tuple(feature.float() for feature in self.model.extract_feat(inputs))
        with torch.autocast(inputs.device.type, enabled=False):  # which NMS needs, and as at the teacher's proposals
            results = self.model.rpn_head.predict(features, data_samples, rescale=False)
            proposals = [result.bboxes for result in results]
            return RoIOutputs(features, proposals, self.at_proposals(features, proposals, data_samples))

    def dry_run(self, images: Tensor) -> None:
        """See :meth:`Adapter.dry_run`; the RoI head runs on a RoI of each image."""
        model, roi_head = self.model, self.model.roi_head if self.model.with_roi_head else None
        features = model.extract_feat(images)
        if model.with_rpn:
            model.rpn_head(features)
        if roi_head is None:
            return
        rois = images.new_tensor([[number, 0, 0, images.shape[3], images.shape[2]] for number in range(len(images))])
        for stage in range(roi_head.num_stages) if self._cascaded else [None]:
            at_stage = [] if stage is None else [stage]
            roi_head._bbox_forward(*at_stage, features, rois)
            if roi_head.with_mask:
                roi_head._mask_forward(*at_stage, features, rois)

    def at_proposals(
        self, features: Tuple[Tensor, ...], proposals: List[Tensor], data_samples: List[Any]
    ) -> List[RoIs]:
        """See :meth:`TwoStageAdapter.at_proposals`."""
        given = [InstanceData(bboxes=boxes) for boxes in proposals]
        metas = [sample.metainfo for sample in data_samples]
        results = self.model.roi_head.predict_bbox(features, metas, given, rcnn_test_cfg=None, rescale=False)
        return [RoIs(result.scores.float(), result.bboxes.float().unflatten(1, (-1, 4))) for result in results]

    def proposal_levels(self, features: Tuple[Tensor, ...]) -> List[DenseLevel]:
        """See :meth:`TwoStageAdapter.proposal_levels`."""
        return dense_levels(self.model.rpn_head, self.model.rpn_head(features))

    def decode_proposals(self, levels: Sequence[DenseLevel], anchors: Sequence[Tensor]) -> Tensor:
        """See :meth:`TwoStageAdapter.decode_proposals`."""
        return boxes_at(self.model.rpn_head, levels, anchors)

    def proposal_rules(self) -> DetectionRules:
        """See :meth:`TwoStageAdapter.proposal_rules`."""
        return proposal_rules(self.model)

    def rules(self) -> DetectionRules:
        """See :meth:`TwoStageAdapter.rules`."""
        return roi_rules(self.model)

    def at_boxes(self, features: Tuple[Tensor, ...], boxes: Tensor) -> RoIs:
        """See :meth:`TwoStageAdapter.at_boxes`."""
        roi_head, head = self.model.roi_head, self.model.roi_head.bbox_head
        inputs = roi_features(roi_head.bbox_roi_extractor, features, boxes)
        logits, codes = head(roi_head.shared_head(inputs) if roi_head.with_shared_head else inputs)
        codes = codes.reshape(-1, head.bbox_coder.encode_size)
        priors = boxes.flatten(0, 1)
        if not head.reg_class_agnostic:
            priors = priors[:, None].expand(-1, head.num_classes, -1).flatten(0, 1)
        decoded = head.bbox_coder.decode(priors, codes)
        shape = boxes.shape[:2]
        return RoIs(logits.softmax(-1).unflatten(0, shape), decoded.reshape(*shape, -1, 4))

    def detections(self, outputs: RoIOutputs) -> List[InstanceData]:
        """See :meth:`TwoStageAdapter.detections`."""
        cfg, found = self.model.roi_head.test_cfg, []
        for probs, boxes in outputs.rois:
            kept, labels = multiclass_nms(boxes.flatten(1), probs, cfg.score_thr, cfg.nms, cfg.max_per_img)
            found.append(InstanceData(bboxes=kept[:, :4], scores=kept[:, 4], labels=labels))
        return found

    def run_like(self, inputs: Tensor, data_samples: List[Any], calls: Calls) -> None:
        """Run the RPN, and the box heads at the other model's RoIs."""
        features = self.model.extract_feat(inputs)
        self.model.rpn_head(features)
        for stage, name in enumerate(self._of_stages('bbox_roi_extractor')):
            rois = calls[name][0].args[1]
            self.model.roi_head._bbox_forward(*([stage] if self._cascaded else []), features, rois)

    def predictions(self, calls: Calls) -> List[Predictions]:
        """Returns the levels of the RPN, then the stages."""
        found = dense_predictions(self.model.rpn_head, calls['rpn_head'][0].output)
        for name in self._of_stages('bbox_head'):
            head, (logits, codes) = self.model.get_submodule(name), calls[name][0].output
            if not head.reg_class_agnostic:
                codes = codes.reshape(len(codes), head.num_classes, -1)
            found.append(Predictions(logits, codes, getattr(head.loss_cls, 'use_sigmoid', False)))
        return found
