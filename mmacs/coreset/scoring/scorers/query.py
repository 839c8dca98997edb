"""Scores of query-based detectors: DETR, Conditional, DAB and Deformable DETR, DINO."""

from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import torch
from mmdet.models import DetectionTransformer
from mmdet.models.dense_heads import DETRHead
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps
from torch import Tensor, nn

from mmacs.coreset.scoring.scorers.detection import DetectionScorer, Kept
from mmacs.coreset.scoring.scorers.detection_scores import Candidates
from mmacs.utils.errors import MmacsError
from mmacs.utils.registry import SCORERS


class QueryOutputs(NamedTuple):
    """Predictions of the queries after the last decoder layer."""

    logits: Tensor  # (B, Q, K) or, with background last, (B, Q, K + 1)
    boxes: Tensor  # (B, Q, 4), centre, width and height relative to the image


@SCORERS.register_module()
class QueryDetectionScorer(DetectionScorer):
    """Scores detectors of the DETR family, see :class:`~mmacs.coreset.scoring.scorers.detection.DetectionScorer`.

    Candidates are the queries, as predicted after the last decoder layer; they form one level. A query of the
    quantized model corresponds to the teacher's of the same number. Where the encoder proposes the queries (DINO,
    two-stage Deformable DETR) numbers are ranks, which quantization permutes: there the one that corresponds to a
    query of the teacher is that of least ``|| p_q - p_T || + c_T (1 - IoU)``.

    Args:
        num_candidates (int): Queries kept of the teacher. Defaults to 100.
        num_hard_negatives (int): Defaults to 32.
        score_threshold (float): Defaults to 0.3.
    """

    def check(self, model: nn.Module, columns: Sequence[str]) -> None:
        """Require a detector of the DETR family that sees nothing but images."""
        head = getattr(model, 'bbox_head', None)
        if (
            not isinstance(model, DetectionTransformer)
            or not isinstance(head, DETRHead)
            or hasattr(model, 'language_model')
        ):
            raise MmacsError(
                f'QueryDetectionScorer scores DETR, DINO and detectors built like them, not {type(model).__name__}'
            )
        super().check(model, columns)

    def outputs(self, model: nn.Module, inputs: Tensor, data_samples: List[Any]) -> QueryOutputs:
        """See :meth:`Scorer.outputs`."""
        head_inputs = model.forward_transformer(model.extract_feat(inputs), data_samples)
        logits, boxes = model.bbox_head(**head_inputs)
        return QueryOutputs(logits[-1].float(), boxes[-1].float())

    def candidates(self, model: nn.Module, outputs: QueryOutputs, data_samples: List[Any]) -> Candidates:
        """See :meth:`DetectionScorer.candidates`."""
        logits, boxes = outputs
        probs = logits.sigmoid() if model.bbox_head.loss_cls.use_sigmoid else logits.softmax(-1)[..., :-1]
        sizes = boxes.new_tensor([sample.img_shape[1::-1] * 2 for sample in data_samples])
        keys = torch.arange(logits.shape[1], device=logits.device)
        boxes = bbox_cxcywh_to_xyxy(boxes) * sizes[:, None]
        return Candidates(probs, boxes, torch.zeros_like(keys), keys.expand(len(logits), -1))

    def at_teachers(
        self,
        model: nn.Module,
        outputs: QueryOutputs,
        data_samples: List[Any],
        own: Candidates,
        teacher: Kept,
        teacher_outputs: Dict[str, Tensor],
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """The corresponding queries; the teacher is silent about those that correspond to none."""
        query = teacher.key.clamp_min(0)
        if getattr(model, 'as_two_stage', False):
            apart = 1 - bbox_overlaps(teacher.boxes, own.boxes)  # (B, M, Q)
            query = (torch.cdist(teacher.probs, own.probs) + teacher.probs.amax(2, keepdim=True) * apart).argmin(2)
        rows = torch.arange(len(query), device=query.device)[:, None]
        silent = torch.ones_like(own.key, dtype=torch.bool)
        silent[rows.expand_as(query)[teacher.key >= 0], query[teacher.key >= 0]] = False
        return own.probs[rows, query], own.boxes[rows, query], silent

    def detections(self, model: nn.Module, outputs: QueryOutputs, data_samples: List[Any]) -> List[Any]:
        """See :meth:`DetectionScorer.detections`."""
        metas = [sample.metainfo for sample in data_samples]
        one_layer = (part[None] for part in outputs)
        return model.bbox_head.predict_by_feat(*one_layer, batch_img_metas=metas, rescale=False)
