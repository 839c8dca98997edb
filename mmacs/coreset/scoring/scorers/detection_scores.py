"""Scores on the candidates of detectors: pure functions."""

from typing import Any, Iterator, NamedTuple, Tuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mmacs.coreset.scoring.scorers.boxes import bbox_overlaps

NUM_CLASSES_KEPT = 5
UNDETECTED = 2.0  # error of an object that nothing detects: probability 0, no box
_MAX_PAIRS = 2**20  # of candidates and objects that are looked at together, each taking about 40 bytes


class Candidates(NamedTuple):
    """What a model might detect in each image: places of a dense head, RoIs, or queries."""

    probs: Tensor  # (B, C, K), class probabilities without background
    boxes: Tensor  # (B, C, 4), x1, y1, x2, y2 in pixels of the input
    level: Tensor  # (C,), int64, the pyramid level, rising from 0
    key: Tensor  # (B, C), int64, which anchor, RoI or query of its level; -1 fills up shorter rows
    source: Any = None  # what a scorer read them from, if it needs that again


def at(values: Tensor, positions: Tensor) -> Tensor:
    """Rows (B, C, ...) at positions (B, M), of which -1 takes any row; shape (B, M, ...)."""
    return values[torch.arange(len(values), device=values.device)[:, None], positions]


def most_confident(found: Candidates, count: int) -> Tensor:
    """Returns the positions of the most confident candidates of each level, -1 where a level has fewer than ``count``.

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


def overlaps_in_parts(boxes: Tensor, others: Tensor, mode: str = 'iou') -> Iterator[Tuple[slice, Tensor]]:
    """Overlaps of boxes, a few of the others at a time, so that crowded images take no more memory.

    Args:
        boxes (Tensor): shape (B, C, 4).
        others (Tensor): shape (B, G, 4).
        mode (str): ``'iou'``, or ``'iof'`` for the share of each of ``boxes``. Defaults to ``'iou'``.

    Yields:
        Tuple[slice, Tensor]: Which g of the G others, and their overlaps, shape (B, C, g).
    """
    size = max(1, _MAX_PAIRS // max(1, boxes.shape[:2].numel()))
    for start in range(0, others.shape[1], size):
        part = slice(start, start + size)
        yield part, bbox_overlaps(boxes, others[:, part], mode=mode)


def error_vectors(
    found: Candidates, objects: Tensor, labels: Tensor, ignored: Tensor, num_hard_negatives: int
) -> Tensor:
    """EVS of a batch, see :class:`~mmacs.coreset.scoring.scorers.detection.DetectionScorer`.

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
        squares, found_best = probs.square().sum(2, keepdim=True), []
        for part, overlap in overlaps_in_parts(boxes, objects):  # boxes that fill up overlap nothing
            wanted = probs.gather(2, labels[:, part].clamp_min(0)[:, None].expand(-1, probs.shape[1], -1))
            distance = (squares - 2 * wanted + 1).clamp_min_(0).sqrt_()
            found_best.append((distance - overlap + 1).min(1))
            background &= (overlap < 0.5).all(2)
        cost, best = (torch.cat(parts, 1) for parts in zip(*found_best))
        per_level = one_hot(level[best]).to(probs.dtype) * present[..., None]  # (B, G, levels)
        count = per_level.sum(1)
        sums = (cost.clamp_max(UNDETECTED)[..., None] * per_level).sum(1)
        used = (count > 0).sum(1).clamp_min(1)
        error = (sums / count.clamp_min(1)).sum(1) / used
    elif objects.shape[1]:
        error = UNDETECTED * (labels >= 0).any(1).to(probs.dtype)
    for _, overlap in overlaps_in_parts(boxes, ignored, mode='iof'):
        background &= (overlap < 0.5).all(2)
    confidence = probs.amax(2).masked_fill(~background, -1)
    hardest = confidence.topk(min(num_hard_negatives, confidence.shape[1]), dim=1)
    norms = at(probs, hardest.indices).norm(dim=2) * (hardest.values >= 0)
    return error + norms.sum(1) / (hardest.values >= 0).sum(1).clamp_min(1)


def disagreement(probs: Tensor, teacher_probs: Tensor, overlap: Tensor, counted: Tensor) -> Tensor:
    """DS of a batch, see :class:`~mmacs.coreset.scoring.scorers.detection.DetectionScorer`.

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
