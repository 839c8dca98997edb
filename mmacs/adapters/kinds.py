"""What each kind of model is asked: classifiers, and detectors with a dense head, with RoIs, or with queries."""

from typing import Any, ContextManager, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from mmacs.adapters.base import Adapter


class ClassifierOutputs(NamedTuple):
    """What a classifier gives for a batch."""

    logits: Tensor  # (B, K)
    features: Optional[Tensor]  # (B, D), inputs of the last linear layer; None where the head has no such vector


class ClassifierAdapter(Adapter):
    """A classifier of images. :attr:`comparable` are those with exclusive classes."""

    @property
    def mixes_images(self) -> bool:
        """Whether the images of a batch are mixed in training now, which a hook may switch."""
        raise NotImplementedError

    def logits(self, outputs: Any) -> Tensor:
        """Returns the logits, float32, shape (B, K), in what the :meth:`hooked_module` returned.

        Raises:
            MmacsError: If the head gives none.
        """
        raise NotImplementedError


class DetectionRules(NamedTuple):
    """How a head makes detections of its predictions, as its test settings say."""

    iou_threshold: float  # boxes of one class that overlap a better one by more are dropped
    max_detections: Optional[int] = None  # per image; None for all
    class_agnostic: bool = False  # whether boxes of all classes compete
    score_threshold: Optional[float] = None  # of candidates; None for all
    takes_threshold: bool = False  # whether a score of just that is enough
    max_candidates: Optional[int] = None  # per level, pairs of anchor and class with the best scores; None for all
    best_class: bool = False  # whether an anchor stands for its best class alone, its quality counted before all else
    min_size: Optional[float] = None  # pixels; a box is both wider and higher
    margin: Optional[int] = 0  # pixels between what boxes are clipped to and the image's border; None: never clipped


class DenseLevel(NamedTuple):
    """What a dense head predicts at the P anchors of each place of one pyramid level, float32."""

    logits: Tensor  # (B, P, K, H, W); K counts the background, last, with 'softmax'
    codes: Tensor  # (B, P, D, H, W), boxes as the head codes them
    quality: Optional[Tensor]  # (B, P, H, W), logits of centerness, objectness or IoU
    refined: Tuple[Tensor, ...]  # further box codes, each like ``codes``
    activation: str  # what makes probabilities of the logits: 'sigmoid', 'softmax', or 'none' if they are such

    @property
    def num_priors(self) -> int:
        """P."""
        return self.logits.shape[1]

    @property
    def num_places(self) -> int:
        """H W."""
        return self.logits.shape[-2] * self.logits.shape[-1]


def at_anchors(maps: Tensor, anchors: Tensor) -> Tensor:
    """Returns the values of maps at chosen anchors of each image.

    Args:
        maps (Tensor): Shape (B, P, D, H, W).
        anchors (Tensor): ``place * P + prior``, int64, shape (B, M).

    Returns:
        Tensor: Shape (B, M, D).
    """
    num_priors = maps.shape[1]
    place, prior = anchors.div(num_priors, rounding_mode='floor'), anchors % num_priors
    rows = torch.arange(anchors.shape[0], device=anchors.device)[:, None]  # its ``len`` would be fixed in a trace
    return maps.flatten(3)[rows, prior, :, place]


class DenseAdapter(Adapter):
    """A detector with a head that predicts at each place of each pyramid level."""

    @property
    def decodable(self) -> bool:
        """Whether :meth:`levels` and :meth:`decode` are known for the head."""
        raise NotImplementedError

    @property
    def has_loss(self) -> bool:
        """Whether the head's loss needs nothing but its outputs and annotations."""
        raise NotImplementedError

    def levels(self, outputs: Any) -> List[DenseLevel]:
        """Sort what :meth:`outputs` gave, from the finest level to the coarsest."""
        raise NotImplementedError

    def decode(self, levels: Sequence[DenseLevel], anchors: Sequence[Tensor]) -> Tensor:
        """Returns the boxes of chosen anchors, not clipped to the image.

        Args:
            levels (Sequence[DenseLevel]): The levels.
            anchors (Sequence[Tensor]): Per level those chosen, see :func:`at_anchors`, shape (B, M of the level).

        Returns:
            Tensor: x1, y1, x2, y2 in pixels of the input, shape (B, M, 4), M those of all levels, level by level.
        """
        raise NotImplementedError

    def detections(self, outputs: Any, data_samples: List[Any]) -> List[Any]:
        """Returns the detector's results after all its postprocessing: per image ``bboxes``, ``scores``, ``labels``."""
        raise NotImplementedError

    def rules(self) -> DetectionRules:
        """Returns how :meth:`detections` are made.

        Raises:
            MmacsError: If that is not known.
        """
        raise NotImplementedError

    def loss_outputs(self, outputs: Any) -> Any:
        """Returns what :meth:`loss` takes, of what :meth:`outputs` gave: nested tensors, batch first."""
        raise NotImplementedError

    def loss(self, outputs: Any, sample: Any) -> Tensor:
        """Returns the head's own loss of one image, a scalar; call it and its gradient within :meth:`alone`.

        Args:
            outputs (Any): That image's part of :meth:`loss_outputs`, float32, batch size 1.
            sample (Any): Its data sample, with annotations.
        """
        raise NotImplementedError

    def alone(self) -> ContextManager:
        """Context in which :meth:`loss` depends on no other image or process, and leaves no trace in the head."""
        raise NotImplementedError


class RoIs(NamedTuple):
    """What a RoI head predicts at the N proposals of one image, before non-maximum suppression."""

    probs: Tensor  # (N, K + 1), background last
    boxes: Tensor  # (N, K, 4) or, where classes share a box, (N, 1, 4); x1, y1, x2, y2 in pixels of the input


class RoIOutputs(NamedTuple):
    """What a two-stage detector predicts at its own proposals."""

    features: Tuple[Tensor, ...]
    proposals: List[Tensor]  # (N, 4) of each image
    rois: List[RoIs]  # of each image


class TwoStageAdapter(Adapter):
    """A detector that proposes regions and then looks at each."""

    def at_proposals(
        self, features: Tuple[Tensor, ...], proposals: List[Tensor], data_samples: List[Any]
    ) -> List[RoIs]:
        """Returns what the RoI head predicts at any proposals, (N, 4) of each image."""
        raise NotImplementedError

    def proposal_levels(self, features: Tuple[Tensor, ...]) -> List[DenseLevel]:
        """Returns what the RPN predicts, from the finest level to the coarsest."""
        raise NotImplementedError

    def decode_proposals(self, levels: Sequence[DenseLevel], anchors: Sequence[Tensor]) -> Tensor:
        """See :meth:`DenseAdapter.decode`."""
        raise NotImplementedError

    def proposal_rules(self) -> DetectionRules:
        """Returns how proposals are made of what the RPN predicts; levels take the place of classes.

        Raises:
            MmacsError: If that is not known.
        """
        raise NotImplementedError

    def at_boxes(self, features: Tuple[Tensor, ...], boxes: Tensor) -> RoIs:
        """Returns what the RoI head predicts at as many boxes of each image; no operation depends on values.

        Args:
            features (tuple): The feature maps.
            boxes (Tensor): x1, y1, x2, y2 in pixels of the input, shape (B, M, 4).

        Returns:
            RoIs: ``probs`` (B, M, K + 1) and ``boxes`` (B, M, K or 1, 4), not clipped to the image.
        """
        raise NotImplementedError

    def rules(self) -> DetectionRules:
        """Returns how :meth:`detections` are made.

        Raises:
            MmacsError: If that is not known.
        """
        raise NotImplementedError

    def detections(self, outputs: RoIOutputs) -> List[Any]:
        """Returns the detector's results after all its postprocessing: per image ``bboxes``, ``scores``, ``labels``."""
        raise NotImplementedError


class QueryOutputs(NamedTuple):
    """Predictions of the queries after the last decoder layer."""

    logits: Tensor  # (B, Q, K) or, with background last, (B, Q, K + 1)
    boxes: Tensor  # (B, Q, 4), centre, width and height relative to the image


class QueryAdapter(Adapter):
    """A detector of the DETR family."""

    @property
    def activation(self) -> str:
        """What makes probabilities of the logits: ``'sigmoid'`` or ``'softmax'``."""
        raise NotImplementedError

    @property
    def proposed(self) -> bool:
        """Whether the encoder proposes the queries, so that their numbers are ranks."""
        raise NotImplementedError

    @property
    def max_detections(self) -> Optional[int]:
        """How many of the best queries an image's detections are; None for all."""
        raise NotImplementedError

    def whole_images(self, inputs: Tensor) -> List[Any]:
        """Returns data samples that say of images (B, 3, H, W) that nothing in them is padding."""
        raise NotImplementedError

    def decode(self, boxes: Tensor, data_samples: List[Any]) -> Tensor:
        """Returns the boxes x1, y1, x2, y2 in pixels of the input, shape (B, Q, 4)."""
        raise NotImplementedError

    def detections(self, outputs: QueryOutputs, data_samples: List[Any]) -> List[Any]:
        """Returns the detector's results after all its postprocessing: per image ``bboxes``, ``scores``, ``labels``."""
        raise NotImplementedError
