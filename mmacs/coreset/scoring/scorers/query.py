"""Scores of query-based detectors: DETR, Conditional, DAB and Deformable DETR, DINO."""

from typing import Any, Dict, List, Sequence, Tuple

import torch
from torch import Tensor, nn

from mmacs.adapters.base import adapter_of
from mmacs.adapters.kinds import QueryAdapter, QueryOutputs
from mmacs.coreset.scoring.probabilities import class_probabilities
from mmacs.coreset.scoring.scorers.boxes import bbox_overlaps
from mmacs.coreset.scoring.scorers.detection import DetectionScorer, Kept
from mmacs.coreset.scoring.scorers.detection_scores import Candidates
from mmacs.utils.errors import MmacsError
from mmacs.utils.registry import SCORERS


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
        adapter = adapter_of(model)
        if not isinstance(adapter, QueryAdapter) or not adapter.scorable:
            raise MmacsError(
                f'QueryDetectionScorer scores DETR, DINO and detectors built like them, not {type(model).__name__}'
            )
        super().check(model, columns)

    def candidates(self, model: nn.Module, outputs: QueryOutputs, data_samples: List[Any]) -> Candidates:
        """See :meth:`DetectionScorer.candidates`."""
        adapter, logits = adapter_of(model), outputs.logits
        keys = torch.arange(logits.shape[1], device=logits.device)
        return Candidates(
            class_probabilities(logits, adapter.activation),
            adapter.decode(outputs.boxes, data_samples),
            torch.zeros_like(keys),
            keys.expand(len(logits), -1),
        )

    def at_teachers(
        self,
        model: nn.Module,
        outputs: QueryOutputs,
        data_samples: List[Any],
        own: Candidates,
        teacher: Kept,
        teacher_outputs: Dict[str, Tensor],
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """Returns the corresponding queries; the teacher is silent about those that correspond to none."""
        query = teacher.key.clamp_min(0)
        if adapter_of(model).proposed:
            apart = 1 - bbox_overlaps(teacher.boxes, own.boxes)  # (B, M, Q)
            query = (torch.cdist(teacher.probs, own.probs) + teacher.probs.amax(2, keepdim=True) * apart).argmin(2)
        rows = torch.arange(len(query), device=query.device)[:, None]
        silent = torch.ones_like(own.key, dtype=torch.bool)
        silent[rows.expand_as(query)[teacher.key >= 0], query[teacher.key >= 0]] = False
        return own.probs[rows, query], own.boxes[rows, query], silent

    def detections(self, model: nn.Module, outputs: QueryOutputs, data_samples: List[Any]) -> List[Any]:
        """See :meth:`DetectionScorer.detections`."""
        return adapter_of(model).detections(outputs, data_samples)
