"""Scores of two-stage detectors: Faster R-CNN, Mask R-CNN, Cascade R-CNN and their kin."""

from typing import Any, Dict, List, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from mmacs.adapters.base import adapter_of
from mmacs.adapters.kinds import RoIOutputs, RoIs, TwoStageAdapter
from mmacs.coreset.scoring.scorers.detection import DetectionScorer, Kept
from mmacs.coreset.scoring.scorers.detection_scores import Candidates, overlaps_in_parts
from mmacs.utils.errors import MmacsError
from mmacs.utils.registry import SCORERS


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
        adapter = adapter_of(model)
        if not isinstance(adapter, TwoStageAdapter) or not adapter.scorable:
            raise MmacsError(
                f'TwoStageDetectionScorer scores Faster, Mask and Cascade R-CNN and detectors built like them, not '
                f'{type(model).__name__}'
            )
        super().check(model, columns)

    def candidates(self, model: nn.Module, outputs: RoIOutputs, data_samples: List[Any]) -> Candidates:
        """See :meth:`DetectionScorer.candidates`."""
        probs = [_foreground(rois) for rois in outputs.rois]
        boxes = [_boxes_of(rois, p.argmax(1)) for rois, p in zip(outputs.rois, probs)]
        keys = [torch.arange(len(p), device=p.device) for p in probs]
        padded = [pad_sequence(parts, batch_first=True) for parts in (probs, boxes)]
        key = pad_sequence(keys, batch_first=True, padding_value=-1)
        if not key.shape[1]:  # no image has a proposal: one that counts for nothing stands for them
            padded, key = [pad(part, (0, 0, 0, 1)) for part in padded], pad(key, (0, 1), value=-1)
        return Candidates(*padded, key.new_zeros(key.shape[1]), key)

    def keep(self, outputs: RoIOutputs, chosen: Tensor) -> Dict[str, Tensor]:
        """Returns the proposals of the teacher's kept RoIs, ``rois`` (B, M, 4), float32; zeros fill up."""
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
        results = adapter_of(model).at_proposals(outputs.features, proposals, data_samples)
        classes = teacher.probs.argmax(2)
        boxes = [_boxes_of(result, best[valid]) for result, best, valid in zip(results, classes, kept)]
        filled = [
            torch.stack([pad(part, (0, 0, 0, kept.shape[1] - len(part))) for part in parts])
            for parts in (map(_foreground, results), boxes)
        ]
        silent = torch.ones_like(own.key, dtype=torch.bool)
        for part, overlap in overlaps_in_parts(own.boxes, teacher.boxes):
            silent &= ~((overlap >= 0.5) & kept[:, None, part]).any(2)
        return filled[0], filled[1], silent

    def detections(self, model: nn.Module, outputs: RoIOutputs, data_samples: List[Any]) -> List[Any]:
        """See :meth:`DetectionScorer.detections`."""
        return adapter_of(model).detections(outputs)


def _foreground(rois: RoIs) -> Tensor:
    """Class probabilities without background, shape (N, K)."""
    return rois.probs[:, :-1]


def _boxes_of(rois: RoIs, classes: Tensor) -> Tensor:
    """Returns the box of one class of each RoI, shape (N, 4)."""
    rows = torch.arange(len(rois.boxes), device=rois.boxes.device)
    return rois.boxes[rows, classes if rois.boxes.shape[1] > 1 else 0]
