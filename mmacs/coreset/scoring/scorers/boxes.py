"""Overlaps of boxes."""

import torch
from torch import Tensor

_TINY = 1e-6  # square pixels, so that boxes without area overlap nothing


def bbox_overlaps(boxes: Tensor, others: Tensor, mode: str = 'iou', is_aligned: bool = False) -> Tensor:
    """Overlap of all pairs of boxes of each image, or of one box with one other.

    Not ``torchvision.ops.box_iou``, which is 0 / 0 for the boxes without area that fill up shorter rows.

    Args:
        boxes (Tensor): x1, y1, x2, y2, shape (B, N, 4).
        others (Tensor): Likewise, shape (B, M, 4).
        mode (str): ``'iou'``, the intersection over the union, or ``'iof'``, over the area of ``boxes``.
        is_aligned (bool): Whether box i meets other i alone.

    Returns:
        Tensor: In [0, 1], shape (B, N, M), or (B, N) if aligned.
    """
    if not is_aligned:
        boxes, others = boxes[..., :, None, :], others[..., None, :, :]
    low, high = torch.maximum(boxes[..., :2], others[..., :2]), torch.minimum(boxes[..., 2:], others[..., 2:])
    sides = (high - low).clamp_(min=0)
    shared = sides[..., 0] * sides[..., 1]
    area, other_area = ((b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1]) for b in (boxes, others))
    whole = area + other_area - shared if mode == 'iou' else area
    return shared / whole.clamp(min=_TINY)
