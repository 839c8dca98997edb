"""Detectors that give boxes, scores and labels of a fixed size: one-stage, two-stage and query-based ones."""

from typing import Optional, Tuple

import torch
from torch import Tensor, nn

from mmacs.adapters.kinds import DenseAdapter, DetectionRules, QueryAdapter, TwoStageAdapter
from mmacs.deploy.detection.candidates import (
    UNUSED,
    Candidates,
    above_threshold,
    as_candidates,
    best,
    clipped,
    dense_candidates,
)
from mmacs.deploy.detection.suppression import suppressed
from mmacs.deploy.modules.waypoint import Waypoint

Detections = Tuple[Tensor, Tensor, Tensor]


class OneStage(nn.Module):
    """A detector with a dense head.

    Args:
        adapter (DenseAdapter): The detector.
        rules (DetectionRules): How its detections are made.
    """

    def __init__(self, adapter: DenseAdapter, rules: DetectionRules) -> None:
        super().__init__()
        self.model, self.adapter, self.rules = adapter.model, adapter, rules

    def forward(self, images: Tensor) -> Detections:
        """Returns boxes (B, M, 4), scores (B, M) and labels (B, M) of normalised images (B, 3, H, W)."""
        levels = self.adapter.levels(self.adapter.outputs(images, []))
        candidates, _ = dense_candidates(levels, self.adapter.decode, self.rules)
        return detections(clipped(candidates, images.shape[-2:], self.rules), self.rules)


class TwoStage(nn.Module):
    """A detector with an RPN and a RoI head.

    Args:
        adapter (TwoStageAdapter): The detector.
        rules (DetectionRules): How its detections are made.
        proposal_rules (DetectionRules): How its proposals are made.
    """

    def __init__(self, adapter: TwoStageAdapter, rules: DetectionRules, proposal_rules: DetectionRules) -> None:
        super().__init__()
        self.model, self.adapter, self.rules, self.proposal_rules = adapter.model, adapter, rules, proposal_rules
        self.waypoint = Waypoint('proposals')

    def forward(self, images: Tensor) -> Detections:
        """See :meth:`OneStage.forward`."""
        features = self.model.extract_feat(images)
        proposals = self.proposals(features, images.shape[-2:])
        rois = self.adapter.at_boxes(features, self.waypoint(proposals.boxes))
        probs = torch.where(proposals.scores[..., None] == UNUSED, UNUSED, rois.probs[..., :-1])
        candidates = as_candidates(above_threshold(probs, self.rules), rois.boxes)
        if self.rules.max_candidates is not None:
            candidates = candidates.at(*best(candidates.scores, self.rules.max_candidates)[::-1])
        return detections(clipped(candidates, images.shape[-2:], self.rules), self.rules)

    def proposals(self, features: Tuple[Tensor, ...], image_size: Tuple[int, int]) -> Candidates:
        """Returns the best regions of each image, best first."""
        rules = self.proposal_rules
        levels = self.adapter.proposal_levels(features)
        candidates, numbers = dense_candidates(levels, self.adapter.decode_proposals, rules)
        candidates = clipped(candidates, image_size, rules)
        return suppressed(candidates, rules.iou_threshold, rules.max_detections, numbers)


class Queries(nn.Module):
    """A detector of the DETR family.

    Args:
        adapter (QueryAdapter): The detector.
        max_detections (int, optional): M. None for all queries.
        score_threshold (float, optional): Detections score more.
    """

    def __init__(self, adapter: QueryAdapter, max_detections: Optional[int], score_threshold: Optional[float]) -> None:
        super().__init__()
        self.model, self.adapter, self.max_detections = adapter.model, adapter, max_detections
        self.rules = DetectionRules(iou_threshold=1.0, score_threshold=score_threshold)

    def forward(self, images: Tensor) -> Detections:
        """See :meth:`OneStage.forward`."""
        samples = self.adapter.whole_images(images)
        logits, boxes = self.adapter.outputs(images, samples)
        boxes = self.adapter.decode(boxes, samples)
        if self.adapter.activation == 'softmax':  # a query stands for its best class alone
            scores, labels = logits.softmax(-1)[..., :-1].max(-1)
            candidates = Candidates(boxes, scores, labels)
        else:
            candidates = as_candidates(logits.sigmoid(), boxes[:, :, None])
        candidates = clipped(candidates, images.shape[-2:], self.rules)
        count = self.max_detections or boxes.shape[1]
        return used(candidates.at(*best(above_threshold(candidates.scores, self.rules), count)[::-1]))


def detections(candidates: Candidates, rules: DetectionRules) -> Detections:
    """Returns boxes, scores and labels of what overlapping candidates leave."""
    groups = None if rules.class_agnostic else candidates.labels
    return used(suppressed(candidates, rules.iou_threshold, rules.max_detections, groups))


def used(candidates: Candidates) -> Detections:
    """Returns boxes, scores and labels, 0 in the rows that stand for nothing."""
    is_used = candidates.scores != UNUSED
    parts = candidates.boxes, candidates.scores, candidates.labels
    return tuple(torch.where(is_used.reshape(is_used.shape + (1,) * (part.ndim - 2)), part, 0) for part in parts)
