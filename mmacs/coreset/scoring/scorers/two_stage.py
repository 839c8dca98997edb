"""Scores of two-stage detectors: Faster R-CNN, Mask R-CNN, Cascade R-CNN and their kin."""

from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import torch
from mmdet.models import CascadeRoIHead, StandardRoIHead, TwoStageDetector
from mmdet.models.layers import multiclass_nms
from mmdet.structures.bbox import bbox_overlaps
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from mmacs.coreset.scoring.scorers.detection import DetectionScorer, Kept
from mmacs.coreset.scoring.scorers.detection_scores import Candidates
from mmacs.utils.errors import MmacsError
from mmacs.utils.registry import SCORERS


class RoIOutputs(NamedTuple):
    """What the quantized model or the teacher predicts at its own proposals."""

    features: Tuple[Tensor, ...]
    proposals: List[Tensor]  # (N, 4) of each image
    results: List[InstanceData]  # of each image: scores (N, K + 1), background last, and bboxes (N, 4) or (N, 4 K)


@SCORERS.register_module()
class TwoStageDetectionScorer(DetectionScorer):
    """Scores two-stage detectors, see :class:`~mmacs.coreset.scoring.scorers.detection.DetectionScorer`.

    Candidates are the RoIs, with the softmax over classes and background, of which background is left out, and the
    box of the most probable class. They form one level. For **evs** they come from the model's own proposals. For
    **ds** the quantized model's RoI head sees the teacher's kept proposals, and the teacher is silent about those of
    the quantized model's own RoIs that overlap none of its kept boxes (IoU below 0.5).

    Args:
        num_candidates (int): RoIs kept of the teacher. Defaults to 100.
        num_hard_negatives (int): Defaults to 32.
        score_threshold (float): Defaults to 0.3.
    """

    def check(self, model: nn.Module, columns: Sequence[str]) -> None:
        """Require an RPN and a RoI head with one box branch or a cascade of them."""
        known = (StandardRoIHead.predict_bbox, CascadeRoIHead.predict_bbox)
        roi_head = getattr(model, 'roi_head', None)
        if (
            not isinstance(model, TwoStageDetector)
            or not model.with_rpn
            or getattr(type(roi_head), 'predict_bbox', None) not in known
            or getattr(roi_head, 'with_semantic', False)
        ):
            raise MmacsError(
                f'TwoStageDetectionScorer scores Faster, Mask and Cascade R-CNN and detectors built like them, not '
                f'{type(model).__name__}'
            )
        super().check(model, columns)

    def outputs(self, model: nn.Module, inputs: Tensor, data_samples: List[Any]) -> RoIOutputs:
        """See :meth:`Scorer.outputs`."""
        features = tuple(feature.float() for feature in model.extract_feat(inputs))
        with torch.autocast(inputs.device.type, enabled=False):  # which NMS needs, and as at the teacher's proposals
            proposals = [result.bboxes for result in model.rpn_head.predict(features, data_samples, rescale=False)]
            return RoIOutputs(features, proposals, _at_proposals(model, features, proposals, data_samples))

    def candidates(self, model: nn.Module, outputs: RoIOutputs, data_samples: List[Any]) -> Candidates:
        """See :meth:`DetectionScorer.candidates`."""
        probs = [_foreground(result) for result in outputs.results]
        boxes = [_boxes_of(result, p.argmax(1)) for result, p in zip(outputs.results, probs)]
        keys = [torch.arange(len(p), device=p.device) for p in probs]
        padded = [pad_sequence(parts, batch_first=True) for parts in (probs, boxes)]
        key = pad_sequence(keys, batch_first=True, padding_value=-1)
        if not key.shape[1]:  # no image has a proposal: one that counts for nothing stands for them
            padded, key = [pad(part, (0, 0, 0, 1)) for part in padded], pad(key, (0, 1), value=-1)
        return Candidates(*padded, key.new_zeros(key.shape[1]), key)

    def keep(self, outputs: RoIOutputs, chosen: Tensor) -> Dict[str, Tensor]:
        """The proposals of the teacher's kept RoIs, ``rois`` (B, M, 4), float32; zeros fill up."""
        proposals = pad_sequence([torch.cat([p, p.new_zeros(1, 4)]) for p in outputs.proposals], batch_first=True)
        rois = proposals.gather(1, chosen.clamp_min(0)[..., None].expand(-1, -1, 4))
        return {'rois': rois.float() * (chosen >= 0)[..., None]}

    def at_teachers(
        self,
        model: nn.Module,
        outputs: RoIOutputs,
        data_samples: List[Any],
        own: Candidates,
        teacher: Kept,
        teacher_outputs: Dict[str, Tensor],
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """The quantized model's RoI head at the teacher's proposals, with its boxes of the teacher's classes."""
        kept = teacher.key >= 0  # first in their rows
        proposals = [rois[valid] for rois, valid in zip(teacher_outputs['rois'], kept)]
        results = _at_proposals(model, outputs.features, proposals, data_samples)
        classes = teacher.probs.argmax(2)
        boxes = [_boxes_of(result, best[valid]) for result, best, valid in zip(results, classes, kept)]
        filled = [
            torch.stack([pad(part, (0, 0, 0, kept.shape[1] - len(part))) for part in parts])
            for parts in (map(_foreground, results), boxes)
        ]
        near = (bbox_overlaps(own.boxes, teacher.boxes) >= 0.5) & kept[:, None]
        return filled[0], filled[1], ~near.any(2)

    def detections(self, model: nn.Module, outputs: RoIOutputs, data_samples: List[Any]) -> List[InstanceData]:
        """See :meth:`DetectionScorer.detections`."""
        cfg = model.roi_head.test_cfg
        found = []
        for result in outputs.results:
            boxes, labels = multiclass_nms(result.bboxes, result.scores, cfg.score_thr, cfg.nms, cfg.max_per_img)
            found.append(InstanceData(bboxes=boxes[:, :4], scores=boxes[:, 4], labels=labels))
        return found


def _at_proposals(
    model: nn.Module, features: Tuple[Tensor, ...], proposals: List[Tensor], data_samples: List[Any]
) -> List[InstanceData]:
    """What the RoI head predicts at proposals, before non-maximum suppression."""
    given = [InstanceData(bboxes=boxes) for boxes in proposals]
    metas = [sample.metainfo for sample in data_samples]
    return model.roi_head.predict_bbox(features, metas, given, rcnn_test_cfg=None, rescale=False)


def _foreground(result: InstanceData) -> Tensor:
    """Class probabilities without background, shape (N, K)."""
    return result.scores[:, :-1].float()


def _boxes_of(result: InstanceData, classes: Tensor) -> Tensor:
    """The box of one class of each RoI, shape (N, 4)."""
    boxes = result.bboxes.float().unflatten(1, (-1, 4))
    rows = torch.arange(len(boxes), device=boxes.device)
    return boxes[rows, classes if boxes.shape[1] > 1 else 0]
