"""EVS and DS of one-stage detectors, anchor-based and anchor-free (our reading: no public code does ACS for them)."""

from typing import Any, Dict, List, NamedTuple, Tuple

import torch
from mmdet.models.dense_heads import FoveaHead, GFLHead, RepPointsHead, TOODHead, YOLOXHead
from mmdet.structures.bbox import bbox_overlaps
from torch import Tensor, nn

from mmacs.coreset.scorers.base import Scorer
from mmacs.errors import MmacsError
from mmacs.registry import SCORERS

# Heads that code boxes in ways of their own.
_OTHER_CODES = (FoveaHead, RepPointsHead, TOODHead)


class Level(NamedTuple):
    """Predictions at the anchors (or points) of one pyramid level."""

    probs: Tensor  # (B, A, K), independent class probabilities
    deltas: Tensor  # (B, A, D), box predictions as the head codes them
    priors: Tensor  # (A, 2), (A, 4): points, or anchors
    stride: Tensor  # (2,), pixels


@SCORERS.register_module()
class DenseDetectionScorer(Scorer):
    """Scores per object first, then per image, so that crowded images don't win by their number of objects.

    Class errors are L2 distances between vectors of K independent class probabilities (with centerness or objectness
    multiplied in, where the head has it); box errors are ``1 - IoU`` of decoded boxes. So both are the classifier's
    scores with a box term added.

    **EVS**: for each ground-truth object the anchor that detects it best, by ``|| p - onehot || + (1 - IoU)``; that
    error is averaged over the objects that are detected at one level, then over the levels that have any. Added to
    it is the background error: ``|| p ||`` averaged over the ``num_hard_negatives`` most confident anchors that
    overlap no object (IoU below 0.5). It stands in for the head's own loss, whose terms cannot be told apart by
    object in all heads.

    **DS**: per level, at the ``num_candidates`` most confident anchors of either model,
    ``sum || p_q - p_T || + sum c_T (1 - IoU(b_q, b_T))``, divided by the teacher's foreground mass ``1 + sum c_T``,
    with c_T its confidence; averaged over levels. The 1 keeps levels where the teacher sees nothing from being judged
    by noise.

    Images without objects have the background error alone. Crowd boxes and ignored boxes are not objects, and
    predictions mostly inside them are not background.

    Args:
        num_candidates (int): Anchors per level and model at which DS is taken. Defaults to 256.
        num_hard_negatives (int): Defaults to 32.
    """

    def __init__(self, num_candidates: int = 256, num_hard_negatives: int = 32) -> None:
        for name, value in (('num_candidates', num_candidates), ('num_hard_negatives', num_hard_negatives)):
            if not isinstance(value, int) or value < 1:
                raise MmacsError(f'{name} must be a positive integer, got {value!r}')
        self.num_candidates = num_candidates
        self.num_hard_negatives = num_hard_negatives

    def check(self, model: nn.Module) -> None:
        """Require a detector with a dense head that has priors at several levels."""
        head = getattr(model, 'bbox_head', None)
        codes_boxes = isinstance(head, YOLOXHead) or hasattr(head, 'bbox_coder')
        if not hasattr(head, 'prior_generator') or not codes_boxes or isinstance(head, _OTHER_CODES):
            raise MmacsError(
                f'DenseDetectionScorer scores one-stage detectors with anchors or points whose boxes it can decode, '
                f'not {type(model).__name__} with {type(head).__name__}'
            )

    def __call__(
        self, model: nn.Module, teacher: nn.Module, inputs: Tensor, data_samples: List[Any]
    ) -> Dict[str, Tensor]:
        """See :meth:`Scorer.__call__`."""
        head = model.bbox_head
        everywhere: List[Tuple[Tensor, Tensor]] = []  # probs (B, A, K) and boxes (B, A, 4) per level
        ds = inputs.new_zeros(len(inputs))
        levels, teacher_levels = dense_predictions(model, inputs), dense_predictions(teacher, inputs)
        for ours, theirs in zip(levels, teacher_levels):
            own = _most_confident(ours.probs, self.num_candidates)
            others = _most_confident(theirs.probs, self.num_candidates)
            # the union of both models' candidates: the teacher's that the quantized model lacks join its own
            is_new = (others[:, :, None] != own[:, None, :]).all(-1)
            in_union = torch.cat([torch.ones_like(own, dtype=torch.bool), is_new], 1)
            union = torch.cat([own, others], 1)
            probs, boxes = _gather(head, ours, union)
            teacher_probs, teacher_boxes = _gather(head, theirs, union)
            ds += dense_disagreement(probs, teacher_probs, boxes, teacher_boxes, in_union)
            all_anchors = torch.arange(len(ours.priors), device=inputs.device).expand(len(inputs), -1)
            everywhere.append(_gather(head, ours, all_anchors))
        evs = []
        for i, sample in enumerate(data_samples):
            objects, ignored = sample.gt_instances, sample.get('ignored_instances')
            evs.append(
                dense_error(
                    [(probs[i], boxes[i]) for probs, boxes in everywhere],
                    _plain(objects.bboxes),
                    objects.labels,
                    inputs.new_zeros(0, 4) if ignored is None else _plain(ignored.bboxes),
                    self.num_hard_negatives,
                )
            )
        return {'evs': torch.stack(evs), 'ds': ds / len(levels)}


def dense_predictions(model: nn.Module, inputs: Tensor) -> List[Level]:
    """Raw predictions of a one-stage detector at every level, in float32.

    Args:
        model (nn.Module): An MMDetection single-stage detector in eval mode.
        inputs (Tensor): Preprocessed images, shape (B, 3, H, W).

    Returns:
        List[Level]: From the finest level to the coarsest.
    """
    head = model.bbox_head
    scores, deltas, *factors = head(model.extract_feat(inputs))
    sizes = [score.shape[-2:] for score in scores]
    all_priors = head.prior_generator.grid_priors(sizes, dtype=torch.float32, device=inputs.device)
    levels = []
    for i, priors in enumerate(all_priors):
        logits = _flatten(scores[i], len(priors))
        sigmoid = getattr(head, 'use_sigmoid_cls', True)
        probs = logits.sigmoid() if sigmoid else logits.softmax(-1)[..., : head.num_classes]
        if factors:
            probs = probs * _flatten(factors[0][i], len(priors)).sigmoid()
        stride = torch.as_tensor(head.prior_generator.strides[i], dtype=torch.float32, device=inputs.device)
        levels.append(Level(probs, _flatten(deltas[i], len(priors)), priors, stride.expand(2)))
    return levels


def dense_error(
    levels: List[Tuple[Tensor, Tensor]], objects: Tensor, labels: Tensor, ignored: Tensor, num_hard_negatives: int
) -> Tensor:
    """EVS of one image, see :class:`DenseDetectionScorer`.

    Args:
        levels (List[Tuple[Tensor, Tensor]]): Per level the anchors' class probabilities (A, K) and boxes (A, 4).
        objects (Tensor): Ground-truth boxes x1, y1, x2, y2 in pixels of the input, shape (G, 4).
        labels (Tensor): Their classes, int64, shape (G,).
        ignored (Tensor): Boxes of crowds and ignored regions, shape (I, 4).
        num_hard_negatives (int): How many background anchors count.

    Returns:
        Tensor: The score, a scalar.
    """
    probs, boxes = (torch.cat(parts) for parts in zip(*levels))
    error = probs.new_zeros(())
    overlap = bbox_overlaps(boxes, objects)
    if len(objects):
        squared = probs.square().sum(1, keepdim=True) - 2 * probs[:, labels] + 1
        cost, best = (squared.clamp_min(0).sqrt() + 1 - overlap).min(0)
        level_of = torch.cat([torch.full((len(p),), i, device=p.device) for i, (p, _) in enumerate(levels)])[best]
        error = torch.stack([cost[level_of == level].mean() for level in level_of.unique()]).mean()
    background = (overlap < 0.5).all(1) & (bbox_overlaps(boxes, ignored, mode='iof') < 0.5).all(1)
    if background.any():
        negatives = probs[background]
        hardest = negatives.amax(1).topk(min(num_hard_negatives, len(negatives))).indices
        error = error + negatives[hardest].norm(dim=1).mean()
    return error


def dense_disagreement(
    probs: Tensor, teacher_probs: Tensor, boxes: Tensor, teacher_boxes: Tensor, counted: Tensor
) -> Tensor:
    """DS of a batch at one level, see :class:`DenseDetectionScorer`.

    Args:
        probs (Tensor): Class probabilities of the quantized model, shape (B, M, K).
        teacher_probs (Tensor): Those of the teacher at the same anchors, shape (B, M, K).
        boxes (Tensor): Decoded boxes of the quantized model, shape (B, M, 4).
        teacher_boxes (Tensor): Those of the teacher, shape (B, M, 4).
        counted (Tensor): Which of the M anchors count, bool, shape (B, M).

    Returns:
        Tensor: Scores, shape (B,).
    """
    confidence = teacher_probs.amax(-1)
    moved = (probs - teacher_probs).norm(dim=-1)
    shifted = confidence * (1 - bbox_overlaps(boxes, teacher_boxes, is_aligned=True))
    return ((moved + shifted) * counted).sum(1) / (1 + (confidence * counted).sum(1))


def _flatten(maps: Tensor, num_priors: int) -> Tensor:
    """(B, P * D, H, W) to (B, H * W * P, D), the order of MMDetection's priors."""
    return maps.float().permute(0, 2, 3, 1).reshape(len(maps), num_priors, -1)


def _most_confident(probs: Tensor, count: int) -> Tensor:
    """Indices of the most confident anchors, shape (B, min(count, A))."""
    return probs.amax(-1).topk(min(count, probs.shape[1]), dim=1).indices


def _gather(head: nn.Module, level: Level, anchors: Tensor) -> Tuple[Tensor, Tensor]:
    """Class probabilities (B, M, K) and decoded boxes (B, M, 4) at chosen anchors, indices (B, M)."""
    rows = torch.arange(len(anchors), device=anchors.device)[:, None]
    deltas, priors = level.deltas[rows, anchors].flatten(0, 1), level.priors[anchors].flatten(0, 1)
    if isinstance(head, GFLHead):  # a distribution over distances, in strides, from the anchor's centre
        deltas, priors = head.integral(deltas) * level.stride[0], head.anchor_center(priors)
    if isinstance(head, YOLOXHead):
        boxes = head._bbox_decode(torch.cat([priors, level.stride.expand(len(priors), 2)], 1), deltas)
    else:
        boxes = head.bbox_coder.decode(priors, deltas)
    return level.probs[rows, anchors], _plain(boxes).reshape(*anchors.shape, 4)


def _plain(boxes: Any) -> Tensor:
    """Boxes as a tensor, whether or not MMDetection wraps them."""
    return getattr(boxes, 'tensor', boxes)
