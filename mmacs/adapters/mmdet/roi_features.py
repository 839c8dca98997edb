"""What MMDetection's RoI extractors read of feature maps, in operations whose shapes depend on no values."""

from typing import Sequence

import torch
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from torch import Tensor, nn

from mmacs.adapters.region_ops import roi_align


def knows_extractor(extractor: nn.Module) -> bool:
    """Returns whether :func:`roi_features` gives what an extractor does."""
    return type(extractor) is SingleRoIExtractor and all(
        type(layer).__name__ == 'RoIAlign' and layer.pool_mode == 'avg' for layer in extractor.roi_layers
    )


def roi_features(extractor: SingleRoIExtractor, features: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """Returns the features at as many boxes of each image.

    Every level is asked for every box, and each box takes what its own level says. Levels see the boxes of others as
    points, so that no time is spent on them.

    Args:
        extractor (SingleRoIExtractor): The extractor.
        features (Sequence[Tensor]): Feature maps, from the finest level to the coarsest.
        boxes (Tensor): x1, y1, x2, y2 in pixels of the input, shape (B, M, 4).

    Returns:
        Tensor: Shape (B M, C, h, w).
    """
    images = torch.arange(boxes.shape[0], device=boxes.device, dtype=boxes.dtype)
    images = images[:, None].expand(-1, boxes.shape[1]).reshape(-1, 1)
    boxes = boxes.flatten(0, 1)
    level = extractor.map_roi_levels(torch.cat([images, boxes], 1), extractor.num_inputs)[:, None]
    found = None
    for number, (layer, maps) in enumerate(zip(extractor.roi_layers, features)):
        rois = torch.cat([images, boxes * (level == number)], 1)
        there = _aligned(layer, maps, rois)
        found = there if found is None else torch.where(level[..., None, None] == number, there, found)
    return found


def _aligned(layer: nn.Module, maps: Tensor, rois: Tensor) -> Tensor:
    """As mmcv does it: it differs in what means that as many points are sampled as the box covers."""
    sampling_ratio = layer.sampling_ratio or -1
    return roi_align(maps, rois, layer.output_size, layer.spatial_scale, sampling_ratio, layer.aligned)
