"""What the scorers of all detectors share: candidates, their errors, their disagreement with the teacher's.

Our reading of ACS (Huang et al. 2024, arXiv 2306.07215), for which there is no public code for detectors.
"""

from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import numpy as np
import torch
from mmdet.structures.bbox import bbox_overlaps
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.nn.utils.rnn import pad_sequence

from mmacs.coreset.scorers.base import Scorer
from mmacs.coreset.scorers.detection_metrics import Boxes, average_precision, precision_and_recall
from mmacs.errors import MmacsError

NUM_CLASSES_KEPT = 5
UNDETECTED = 2.0  # error of an object that nothing detects: probability 0, no box


class Candidates(NamedTuple):
    """What a model might detect in each image: places of a dense head, RoIs, or queries."""

    probs: Tensor  # (B, C, K), class probabilities without background
    boxes: Tensor  # (B, C, 4), x1, y1, x2, y2 in pixels of the input
    level: Tensor  # (C,), int64, the pyramid level, rising from 0
    key: Tensor  # (B, C), int64, which anchor, RoI or query of its level; -1 fills up shorter rows
    source: Any = None  # what a scorer read them from, if it needs that again


class DetectionScorer(Scorer):
    """Scores per object first, then per image: more objects of the same kind don't change a score.

    A score may nevertheless go with the number of objects where crowded images are harder, as those of small objects.

    A candidate is a vector of K class probabilities and a box. Class errors are L2 distances between such vectors, box
    errors ``1 - IoU``: the classifier's scores with a box term added.

    **evs**: each ground-truth object takes the candidate of least ``|| p - onehot || + (1 - IoU)``, at most 2, which
    stands for no detection. That error is averaged over the objects detected at one level, then over the levels that
    have any. Added to it is the background error: ``|| p ||`` averaged over the ``num_hard_negatives`` most confident
    candidates that overlap no object (IoU below 0.5).

    **ds**: a mean over candidates a of the teacher and of the quantized model,
    ``sum w_a (|| p_q - p_T || + c_T (1 - IoU(b_q, b_T))) / sum w_a``, weighted by either's confidence,
    ``w_a = max(c_q, c_T)``. They are the ``num_candidates`` most confident ones per level of either model, with their
    5 most probable classes; all else that the teacher predicts counts as silent: probability 0, no box.

    **sufficiency**, after AFSS: ``1 - min(precision, recall)`` of the detections at an IoU of 0.5.

    **metric_gap**, after DetGain: the teacher's AP on the image minus the quantized model's, see
    :func:`~mmacs.coreset.scorers.detection_metrics.average_precision`.

    **teacher_error**: the teacher's own evs.

    Images without objects have the background error alone; their ``sufficiency`` is 1 if anything is detected, else 0;
    their AP is 1 minus the surest detection's score. Crowd boxes and ignored boxes are not objects, and what lies at
    least half inside them is neither background nor a false detection.

    Args:
        num_candidates (int): Candidates kept of the teacher per level.
        num_hard_negatives (int): Defaults to 32.
        score_threshold (float): Detections of lower score don't count for ``sufficiency``. Defaults to 0.3.

    Raises:
        MmacsError: If an argument is out of range.
    """

    columns = {
        'evs': 'distance of the predictions from the ground truth',
        'ds': "distance of the predictions from the teacher's",
        'sufficiency': '1 - min(precision, recall) of the detections',
        'metric_gap': "the teacher's AP on the image minus the quantized model's",
        'teacher_error': "distance of the teacher's predictions from the ground truth",
    }
    teacher_columns = frozenset({'ds', 'metric_gap', 'teacher_error'})
    normalisation = 'stratified_rank'

    def __init__(self, num_candidates: int = 100, num_hard_negatives: int = 32, score_threshold: float = 0.3) -> None:
        for name, value in (('num_candidates', num_candidates), ('num_hard_negatives', num_hard_negatives)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise MmacsError(f'{name} must be a positive integer, got {value!r}')
        if not isinstance(score_threshold, (int, float)) or not 0 <= score_threshold <= 1:
            raise MmacsError(f'score_threshold must lie in [0, 1], got {score_threshold!r}')
        self.num_candidates = num_candidates
        self.num_hard_negatives = num_hard_negatives
        self.score_threshold = score_threshold

    # ---------------------------------------------------------------- what the kinds of detectors differ in
    def has_candidates(self, model: nn.Module) -> bool:
        """Whether :meth:`candidates` knows this model; if not, only columns that need none can be computed."""
        return True

    def candidates(self, model: nn.Module, outputs: Any, data_samples: List[Any]) -> Candidates:
        """All candidates of a batch, from what :meth:`outputs` gave."""
        raise NotImplementedError

    def detections(self, model: nn.Module, outputs: Any, data_samples: List[Any]) -> List[Any]:
        """The detector's own results after all its postprocessing: per image ``bboxes``, ``scores``, ``labels``."""
        raise NotImplementedError

    def at_teachers(
        self,
        model: nn.Module,
        outputs: Any,
        data_samples: List[Any],
        own: Candidates,
        teacher: 'Kept',
        reference: Dict[str, Tensor],
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """The quantized model's candidates that correspond to the teacher's, and those of its own that don't.

        Returns:
            Tuple[Tensor, Tensor, Tensor]: Probabilities (B, M, K) and boxes (B, M, 4) at the M kept places; and which
            of ``own`` the teacher is silent about, bool, (B, C).
        """
        raise NotImplementedError

    def keep(self, outputs: Any, chosen: Tensor) -> Dict[str, Tensor]:
        """Further tensors to keep of the teacher's chosen candidates, see :func:`most_confident`."""
        return {}

    # ---------------------------------------------------------------- the interface
    def check(self, model: nn.Module, columns: Sequence[str]) -> None:
        """See :meth:`Scorer.check`."""
        super().check(model, columns)
        impossible = [column for column in columns if column in ('evs', 'ds', 'teacher_error')]
        if impossible and not self.has_candidates(model):
            head = type(model.bbox_head).__name__
            raise MmacsError(
                f'{type(self).__name__} cannot decode the boxes of {head}, so that of its columns only '
                f'{", ".join(c for c in self.columns if c not in ("evs", "ds", "teacher_error"))} can be computed'
            )

    def reference(self, teacher: nn.Module, inputs: Tensor, data_samples: List[Any]) -> Dict[str, Tensor]:
        """See :meth:`Scorer.reference`.

        Returns:
            Dict[str, Tensor]: ``teacher_ap`` (B,), float32; where the model has candidates ``teacher_error`` (B,),
            float32, and of the kept ones ``key`` (B, M), int32, -1 where a level has fewer, ``classes`` (B, M, 5),
            int16, their probabilities ``probs`` (B, M, 5), float16, and ``boxes`` (B, M, 4), float32. M is
            ``num_candidates`` for each level.
        """
        outputs = self.outputs(teacher, inputs, data_samples)
        results = self.detections(teacher, outputs, data_samples)
        kept = {'teacher_ap': inputs.new_tensor(list(map(_image_ap, results, data_samples)), dtype=torch.float32)}
        if not self.has_candidates(teacher):
            return kept
        found = self.candidates(teacher, outputs, data_samples)
        chosen = most_confident(found, self.num_candidates)
        probs, classes = _at(found.probs, chosen).topk(min(NUM_CLASSES_KEPT, found.probs.shape[-1]), dim=-1)
        key = _at(found.key, chosen).masked_fill(chosen < 0, -1)
        kept.update(
            teacher_error=self._errors(found, data_samples),
            key=key.int(),
            classes=classes.short(),
            probs=probs.half(),
            boxes=_at(found.boxes, chosen),
            **self.keep(outputs, chosen),
        )
        return kept

    def score(
        self,
        model: nn.Module,
        outputs: Any,
        data_samples: List[Any],
        reference: Dict[str, Tensor],
        columns: Sequence[str],
    ) -> Dict[str, Tensor]:
        """See :meth:`Scorer.score`."""
        scores = {}
        if {'evs', 'ds'} & set(columns):
            found = self.candidates(model, outputs, data_samples)
        if 'evs' in columns:
            scores['evs'] = self._errors(found, data_samples)
        if 'ds' in columns:
            scores['ds'] = self._disagreement(model, outputs, data_samples, found, reference)
        if {'sufficiency', 'metric_gap'} & set(columns):
            results = self.detections(model, outputs, data_samples)
            device = results[0].scores.device
        if 'sufficiency' in columns:
            scores['sufficiency'] = torch.tensor(
                [
                    1 - min(precision_and_recall(*_against(*pair), self.score_threshold))
                    for pair in zip(results, data_samples)
                ],
                device=device,
            )
        if 'metric_gap' in columns:
            ap = torch.tensor(list(map(_image_ap, results, data_samples)), device=device)
            scores['metric_gap'] = reference['teacher_ap'] - ap
        if 'teacher_error' in columns:
            scores['teacher_error'] = reference['teacher_error']
        return scores

    # ---------------------------------------------------------------- parts
    def _errors(self, found: Candidates, data_samples: List[Any]) -> Tensor:
        objects = [sample.gt_instances.bboxes for sample in data_samples]
        labels = [sample.gt_instances.labels for sample in data_samples]
        ignored = [ignored_boxes(sample) for sample in data_samples]
        return error_vectors(
            found,
            pad_sequence(objects, batch_first=True).float(),
            pad_sequence(labels, batch_first=True, padding_value=-1),
            pad_sequence(ignored, batch_first=True).float(),
            self.num_hard_negatives,
        )

    def _disagreement(
        self,
        model: nn.Module,
        outputs: Any,
        data_samples: List[Any],
        found: Candidates,
        reference: Dict[str, Tensor],
    ) -> Tensor:
        teacher = Kept.of(reference, found.probs.shape[-1])
        probs, boxes, alone = self.at_teachers(model, outputs, data_samples, found, teacher, reference)
        chosen = most_confident(found, self.num_candidates)
        own = most_probable_classes(_at(found.probs, chosen))
        alone = _at(alone, chosen) & (chosen >= 0)
        overlap = bbox_overlaps(boxes, teacher.boxes, is_aligned=True)
        return disagreement(
            torch.cat([most_probable_classes(probs), own], 1),
            torch.cat([teacher.probs, torch.zeros_like(own)], 1),
            torch.cat([overlap, overlap.new_zeros(alone.shape)], 1),
            torch.cat([teacher.key >= 0, alone], 1),
        )


class Kept(NamedTuple):
    """The teacher's candidates, unpacked from the reference; M = levels * num_candidates."""

    key: Tensor  # (B, M), int64, -1 where there is none
    probs: Tensor  # (B, M, K)
    boxes: Tensor  # (B, M, 4)

    @classmethod
    def of(cls, reference: Dict[str, Tensor], num_classes: int) -> 'Kept':
        """Unpack a reference."""
        key, kept = reference['key'].long(), reference['probs'].float()
        probs = kept.new_zeros(*key.shape, num_classes).scatter_(-1, reference['classes'].long(), kept)
        return cls(key, probs, reference['boxes'])


def most_confident(found: Candidates, count: int) -> Tensor:
    """Positions of the most confident candidates of each level, -1 where a level has fewer than ``count``.

    Returns:
        Tensor: int64, shape (B, levels * count), level by level.
    """
    confidence = found.probs.amax(-1).masked_fill(found.key < 0, -1)
    chosen, start = [], 0
    for size in found.level.bincount().tolist():
        part = confidence[:, start : start + size].topk(min(count, size), dim=1)
        index = (part.indices + start).masked_fill(part.values < 0, -1)
        chosen.append(torch.cat([index, index.new_full((len(index), count - index.shape[1]), -1)], 1))
        start += size
    return torch.cat(chosen, 1)


def most_probable_classes(probs: Tensor) -> Tensor:
    """Set all but the 5 most probable classes to 0, as in what is kept of the teacher; shape (..., K)."""
    if probs.shape[-1] <= NUM_CLASSES_KEPT:
        return probs
    top = probs.topk(NUM_CLASSES_KEPT, dim=-1)
    return torch.zeros_like(probs).scatter_(-1, top.indices, top.values)


def error_vectors(
    found: Candidates, objects: Tensor, labels: Tensor, ignored: Tensor, num_hard_negatives: int
) -> Tensor:
    """EVS of a batch, see :class:`DetectionScorer`.

    Args:
        found (Candidates): The candidates.
        objects (Tensor): Ground-truth boxes in pixels of the input, shape (B, G, 4).
        labels (Tensor): Their classes, int64, shape (B, G); -1 fills up.
        ignored (Tensor): Boxes of crowds and ignored regions, shape (B, I, 4); boxes without area fill up.
        num_hard_negatives (int): How many background candidates count.

    Returns:
        Tensor: Scores, shape (B,).
    """
    probs, boxes, level, key = found[:4]
    error = probs.new_zeros(len(probs))
    background = key >= 0
    if objects.shape[1] and probs.shape[1]:
        present = labels >= 0
        overlap = bbox_overlaps(boxes, objects)  # (B, C, G); boxes that fill up overlap nothing
        wanted = probs.gather(2, labels.clamp_min(0)[:, None].expand(-1, probs.shape[1], -1))
        distance = (probs.square().sum(2, keepdim=True) - 2 * wanted + 1).clamp_min_(0).sqrt_()
        cost, best = (distance - overlap + 1).min(1)
        per_level = one_hot(level[best]).to(probs.dtype) * present[..., None]  # (B, G, levels)
        count = per_level.sum(1)
        sums = (cost.clamp_max(UNDETECTED)[..., None] * per_level).sum(1)
        used = (count > 0).sum(1).clamp_min(1)
        error = (sums / count.clamp_min(1)).sum(1) / used
        background &= (overlap < 0.5).all(2)
    elif objects.shape[1]:
        error = UNDETECTED * (labels >= 0).any(1).to(probs.dtype)
    if ignored.shape[1]:
        background &= (bbox_overlaps(boxes, ignored, mode='iof') < 0.5).all(2)
    confidence = probs.amax(2).masked_fill(~background, -1)
    hardest = confidence.topk(min(num_hard_negatives, confidence.shape[1]), dim=1)
    norms = _at(probs, hardest.indices).norm(dim=2) * (hardest.values >= 0)
    return error + norms.sum(1) / (hardest.values >= 0).sum(1).clamp_min(1)


def disagreement(probs: Tensor, teacher_probs: Tensor, overlap: Tensor, counted: Tensor) -> Tensor:
    """DS of a batch, see :class:`DetectionScorer`.

    Args:
        probs (Tensor): Class probabilities of the quantized model, shape (B, M, K).
        teacher_probs (Tensor): Those of the teacher for the same candidates, shape (B, M, K).
        overlap (Tensor): IoU of the two models' boxes, shape (B, M).
        counted (Tensor): Which of the M candidates count, bool, shape (B, M).

    Returns:
        Tensor: Scores, shape (B,); 0 where none counts.
    """
    confidence = teacher_probs.amax(2)
    weight = torch.maximum(confidence, probs.amax(2)) * counted
    moved = (probs - teacher_probs).norm(dim=2)
    return (weight * (moved + confidence * (1 - overlap))).sum(1) / weight.sum(1).clamp_min(1e-6)


def ignored_boxes(sample: Any) -> Tensor:
    """Boxes of crowds and ignored regions of an image, shape (I, 4)."""
    ignored = sample.get('ignored_instances')
    return sample.gt_instances.bboxes[:0] if ignored is None else ignored.bboxes


def _at(values: Tensor, positions: Tensor) -> Tensor:
    """Rows (B, C, ...) at positions (B, M), of which -1 takes any row; shape (B, M, ...)."""
    return values[torch.arange(len(values), device=values.device)[:, None], positions]


def _against(result: Any, sample: Any) -> Tuple[Boxes, Boxes, np.ndarray]:
    """Detections and ground truth of an image for the metrics, which are computed on the CPU."""
    order = result.scores.argsort(descending=True, stable=True)
    parts = (result.bboxes[order], result.labels[order], result.scores[order])
    truth = (sample.gt_instances.bboxes, sample.gt_instances.labels)
    found, objects = ([part.detach().float().cpu().numpy() for part in side] for side in (parts, truth))
    return Boxes(*found), Boxes(*objects), ignored_boxes(sample).float().cpu().numpy()


def _image_ap(result: Any, sample: Any) -> float:
    return average_precision(*_against(result, sample))
