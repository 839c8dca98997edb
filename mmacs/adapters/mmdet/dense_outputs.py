"""What MMDetection's dense heads return, sorted."""

from typing import Any, Dict, List

import torch
from mmdet.models.dense_heads import GuidedAnchorHead, SABLRetinaHead, TOODHead, YOLOV3Head
from torch import Tensor, nn

from mmacs.adapters.base import Predictions
from mmacs.adapters.kinds import DenseLevel

# Heads whose anchors or outputs are of other kinds than class logits and coded boxes at fixed places.
OTHER_OUTPUTS = (GuidedAnchorHead, SABLRetinaHead, YOLOV3Head)


def has_fixed_places(head: nn.Module) -> bool:
    """Returns whether a head predicts class logits and coded boxes at anchors that depend on the image's size alone."""
    known = hasattr(head, 'cls_out_channels') and hasattr(head, 'use_sigmoid_cls')
    return known and not isinstance(head, (*OTHER_OUTPUTS, TOODHead))


def dense_levels(head: nn.Module, outputs: Any) -> List[DenseLevel]:
    """Sort the outputs of a dense head.

    Args:
        head (nn.Module): An MMDetection dense head.
        outputs (Any): What its ``forward`` returns: per level class logits (B, P K, H, W), box codes (B, P D, H, W)
            and further maps. Of these, the first with P channels is a quality, as many as box codes are refined
            boxes, and any others, such as mask coefficients, are left out.

    Returns:
        List[DenseLevel]: From the finest level to the coarsest.
    """
    logits, codes, *further = outputs
    further = [maps for maps in further if isinstance(maps, (list, tuple))]
    return [_level(head, *maps) for maps in zip(logits, codes, *further)]


def named_maps(outputs: Any) -> Dict[str, Tensor]:
    """Returns what the ``forward`` of a dense head gives by name: MMDetection's, and the number of the level."""
    parts = [maps for maps in outputs if isinstance(maps, (list, tuple))]
    names = ('cls_score', 'bbox_pred', 'score_factor', *(f'extra_{i}' for i in range(len(parts))))
    return {f'{name}_{level}': map_ for name, maps in zip(names, parts) for level, map_ in enumerate(maps)}


def _level(head: nn.Module, logits: Tensor, codes: Tensor, *further: Tensor) -> DenseLevel:
    num_priors = logits.shape[1] // head.cls_out_channels
    channels = [maps.shape[1] for maps in further]
    qualities = [maps.float() for maps, count in zip(further, channels) if count == num_priors]
    refined = [maps for maps, count in zip(further, channels) if count == codes.shape[1] != num_priors]
    logits, codes, *refined = (maps.float().unflatten(1, (num_priors, -1)) for maps in (logits, codes, *refined))
    return DenseLevel(logits, codes, qualities[0] if qualities else None, tuple(refined), _activation(head))


def _activation(head: nn.Module) -> str:
    if isinstance(head, TOODHead):  # gives probabilities
        return 'none'
    return 'sigmoid' if getattr(head, 'use_sigmoid_cls', True) else 'softmax'


def dense_predictions(head: nn.Module, outputs: Any) -> List[Predictions]:
    """Returns the outputs of a dense head, place by place.

    Args:
        head (nn.Module): An MMDetection dense head.
        outputs (Any): What its ``forward`` returns.

    Returns:
        List[Predictions]: Per level, N = B H W P anchors. Distributions over distances, as GFL predicts, become their
        expectations.
    """
    found = []
    for level in dense_levels(head, outputs):
        codes = [_by_place(maps) for maps in (level.codes, *level.refined)]
        if hasattr(head, 'integral'):
            codes = [expected_distances(head, part) for part in codes]
        quality = None if level.quality is None else _by_place(level.quality[:, :, None]).squeeze(1)
        logits, sigmoid = _by_place(level.logits), level.activation == 'sigmoid'
        found.append(Predictions(logits, torch.cat(codes, -1), sigmoid, quality))
    return found


def expected_distances(head: nn.Module, codes: Tensor) -> Tensor:
    """Returns the means of distributions over distances, (N, 4 bins) to (N, 4), as ``head.integral`` computes them.

    That casts the distances to their own type on the way, which ``torch.onnx`` can't write.
    """
    return codes.unflatten(-1, (4, -1)).softmax(-1) @ head.integral.project


def _by_place(maps: Tensor) -> Tensor:
    """(B, P, D, H, W) to (B H W P, D)."""
    return maps.permute(0, 3, 4, 1, 2).flatten(0, 3)
