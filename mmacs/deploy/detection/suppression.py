"""Non-maximum suppression of a batch, with results of a fixed size."""

from typing import Optional

import torch
from torch import Tensor

from mmacs.adapters.region_ops import nms
from mmacs.deploy.detection.candidates import UNUSED, Candidates, best
from mmacs.deploy.tracing import is_exporting

_DUMMY, _LEAST = -2.0, -3.0  # scores of the boxes that fill up an image's selection, and below it


def suppressed(candidates: Candidates, iou_threshold: float, count: int, groups: Optional[Tensor] = None) -> Candidates:
    """Returns the best candidates that no better one of their group overlaps, best first, the rest UNUSED.

    Args:
        candidates (Candidates): N of each image.
        iou_threshold (float): Overlap from which on the lesser is dropped.
        count (int): How many of each image are returned, M.
        groups (Tensor, optional): Numbers of the groups, int64, shape (B, N). None for one group.

    Returns:
        Candidates: M of each image.
    """
    boxes, scores, _ = candidates
    used = scores != UNUSED
    apart = boxes if groups is None else _apart(boxes, used, groups)
    kept = (_kept_in_graph if is_exporting() else _kept)(apart, scores, iou_threshold, count)
    scores, rows = best(torch.where(kept & used, scores, UNUSED), count)
    return candidates.at(rows, scores)


def _apart(boxes: Tensor, used: Tensor, groups: Tensor) -> Tensor:
    """Returns the boxes moved so that those of different groups don't overlap, as torchvision and mmcv do."""
    reach = torch.where(used[..., None], boxes, 0).amax((1, 2), keepdim=True) + 1
    return boxes + groups[..., None] * reach


def _kept(boxes: Tensor, scores: Tensor, iou_threshold: float, count: int) -> Tensor:
    """Returns which boxes are among the best that stay, bool, shape (B, N)."""
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for image, (own_boxes, own_scores) in enumerate(zip(boxes, scores)):
        rows = torch.nonzero(own_scores != UNUSED).squeeze(1)
        kept[image, rows[nms(own_boxes[rows], own_scores[rows], iou_threshold)[:count]]] = True
    return kept


def _kept_in_graph(boxes: Tensor, scores: Tensor, iou_threshold: float, count: int) -> Tensor:
    """The same by one node, which selects ``count`` boxes of each image: for lack of others, points."""
    batch, length = scores.shape[0], scores.shape[1] + count
    boxes = torch.nn.functional.pad(boxes, (0, 0, 0, count))
    scores = torch.nn.functional.pad(torch.where(scores == UNUSED, 2 * _LEAST, scores), (0, count), value=_DUMMY)
    selected = torch.onnx.ops.symbolic(
        'NonMaxSuppression',
        (boxes, scores[:, None], torch.tensor([count]), torch.tensor([iou_threshold]), torch.tensor([_LEAST])),
        dtype=torch.int64,
        shape=(batch * count, 3),
    )
    rows = selected[:, 0] * length + selected[:, 2]
    kept = torch.zeros(batch * length, dtype=torch.int64).scatter(0, rows, 1)
    return kept.reshape(batch, length)[:, : length - count] > 0
