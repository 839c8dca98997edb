"""How MMDetection's dense heads code boxes."""

from typing import Any, Sequence

import torch
from mmdet.models.dense_heads import FoveaHead, GFLHead, RepPointsHead, TOODHead, YOLOXHead
from torch import Tensor, nn

from mmacs.adapters.kinds import DenseLevel, at_anchors
from mmacs.adapters.mmdet.dense_outputs import OTHER_OUTPUTS, expected_distances

_FAR = 1e5  # pixels; some heads predict exponents, which may overflow


def is_decodable(head: nn.Module) -> bool:
    """Returns whether a head predicts boxes at anchors or points in a way that is known."""
    decodes = hasattr(head, 'bbox_coder') or isinstance(head, (FoveaHead, RepPointsHead, YOLOXHead))
    return decodes and hasattr(head, 'prior_generator') and not isinstance(head, OTHER_OUTPUTS)


def boxes_at(head: nn.Module, levels: Sequence[DenseLevel], anchors: Sequence[Tensor]) -> Tensor:
    """See :meth:`mmacs.adapters.kinds.DenseAdapter.decode`."""
    sizes = [level.codes.shape[-2:] for level in levels]
    generated = head.prior_generator.grid_priors(sizes, dtype=torch.float32, device=levels[0].codes.device)
    priors = torch.cat([_plain(own)[chosen] for own, chosen in zip(generated, anchors)], 1)
    codes = torch.cat([at_anchors(level.codes, chosen) for level, chosen in zip(levels, anchors)], 1)
    numbers = torch.cat([chosen.new_full(chosen.shape, number) for number, chosen in enumerate(anchors)], 1)
    # of all levels at once: of so few boxes decoding costs the calls, not the arithmetic
    boxes = _decode(head, numbers.flatten(), codes.flatten(0, 1), priors.flatten(0, 1))
    return boxes.clamp(-_FAR, _FAR).unflatten(0, numbers.shape)


def _decode(head: nn.Module, level: Tensor, codes: Tensor, priors: Tensor) -> Tensor:
    """Returns the boxes from box codes.

    Args:
        head (nn.Module): The head.
        level (Tensor): Numbers of their pyramid levels, int64, shape (N,).
        codes (Tensor): Shape (N, D).
        priors (Tensor): Their anchors (N, 4) or points (N, 2).

    Returns:
        Tensor: x1, y1, x2, y2 in pixels of the input, shape (N, 4).
    """
    strides = codes.new_tensor(head.prior_generator.strides)
    stride = strides.reshape(len(strides), -1).expand(-1, 2)[level]
    if isinstance(head, TOODHead):
        return codes * stride[:, :1]
    if isinstance(head, RepPointsHead):
        return codes * stride[:, :1] + priors[:, :2].repeat(1, 2)
    if isinstance(head, FoveaHead):
        return _distances_to_boxes(priors, codes.new_tensor(head.base_edge_list)[level, None] * codes.exp())
    if isinstance(head, YOLOXHead):
        return head._bbox_decode(torch.cat([priors, stride], 1), codes)
    if isinstance(head, GFLHead):  # a distribution over distances, in strides, from the anchor's centre
        codes, priors = expected_distances(head, codes) * stride[:, :1], head.anchor_center(priors)
    return _plain(head.bbox_coder.decode(priors, codes))


def _distances_to_boxes(points: Tensor, distances: Tensor) -> Tensor:
    """Distances left, top, right, bottom of points to boxes, shape (N, 4)."""
    return torch.cat([points - distances[:, :2], points + distances[:, 2:]], 1)


def _plain(boxes: Any) -> Tensor:
    """Returns the boxes as a tensor, whether or not MMDetection wraps them."""
    return getattr(boxes, 'tensor', boxes)
