"""What a model's head predicts, before any postprocessing."""

from typing import Dict, Tuple

from torch import Tensor, nn

from mmacs.adapters.base import Adapter
from mmacs.deploy.detection.detectors import TwoStage


class RawOutputs(nn.Module):
    """A model that gives what its head predicts.

    Args:
        adapter (Adapter): The model.

    Attributes:
        names (Tuple[str, ...]): Of the outputs, as the last forward gave them.
    """

    names: Tuple[str, ...] = ()

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.model, self.adapter = adapter.model, adapter

    def forward(self, images: Tensor) -> Tuple[Tensor, ...]:
        """Returns the outputs for normalised images (B, 3, H, W), in the order of the names."""
        outputs = self.predicted(images)
        self.names = tuple(outputs)
        return tuple(outputs.values())

    def predicted(self, images: Tensor) -> Dict[str, Tensor]:
        """Returns the outputs by name."""
        return self.adapter.raw(images)


class RawTwoStage(RawOutputs):
    """A two-stage detector that gives its proposals, and the probabilities and boxes of each.

    Args:
        detector (TwoStage): The detector.
    """

    def __init__(self, detector: TwoStage) -> None:
        super().__init__(detector.adapter)
        self.detector = detector

    def predicted(self, images: Tensor) -> Dict[str, Tensor]:
        """Returns the outputs by name.

        They are ``proposals`` (B, M, 4), ``objectness`` (B, M), 0 in rows that stand for nothing, ``cls_score``
        (B, M, K + 1), probabilities, background last, and ``bbox_pred``, boxes (B, M, K or 1, 4).
        """
        features = self.model.extract_feat(images)
        proposals = self.detector.proposals(features, images.shape[-2:])
        rois = self.adapter.at_boxes(features, self.detector.waypoint(proposals.boxes))
        return {
            'proposals': proposals.boxes,
            'objectness': proposals.scores.clamp_min(0),
            'cls_score': rois.probs,
            'bbox_pred': rois.boxes,
        }
