"""Operations on regions that torch lacks: torchvision's, which ``torch.onnx`` can write."""

from typing import Sequence

from torch import Tensor


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Returns the indices of boxes (N, 4) that no better one overlaps by more than the IoU, best score first."""
    from torchvision.ops import nms  # takes a second, and few need it

    return nms(boxes, scores, iou_threshold)


def roi_align(
    maps: Tensor, rois: Tensor, size: Sequence[int], scale: float, sampling_ratio: int, aligned: bool
) -> Tensor:
    """Returns bilinearly sampled means of maps in the bins of regions.

    Args:
        maps (Tensor): Shape (B, C, H, W).
        rois (Tensor): Number of the image, x1, y1, x2, y2; shape (N, 5).
        size (Sequence[int]): Number of bins, (h, w).
        scale (float): Pixels of the maps per pixel of the regions.
        sampling_ratio (int): Samples per bin in each direction; -1 for as many as it covers pixels.
        aligned (bool): Whether centres of pixels are meant to lie between whole coordinates.

    Returns:
        Tensor: Shape (N, C, h, w).
    """
    from torchvision.ops import roi_align

    return roi_align(maps, rois, size, scale, sampling_ratio, aligned)
