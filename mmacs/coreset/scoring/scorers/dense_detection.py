"""Scores of one-stage detectors, anchor-based and anchor-free."""

import sys
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from mmdet.models import RPN, DetectionTransformer
from mmdet.models.dense_heads import (
    CenterNetUpdateHead,
    FoveaHead,
    GFLHead,
    GuidedAnchorHead,
    LDHead,
    RepPointsHead,
    SABLRetinaHead,
    TOODHead,
    VFNetHead,
    YOLOV3Head,
    YOLOXHead,
)
from mmdet.models.utils import unpack_gt_instances
from mmengine.dist import get_world_size
from torch import Tensor, nn

from mmacs.coreset.scoring.scorers.detection import DetectionScorer, Kept
from mmacs.coreset.scoring.scorers.detection_scores import Candidates
from mmacs.utils.errors import MmacsError
from mmacs.utils.registry import SCORERS

# Heads whose anchors or outputs are of other kinds than class logits and coded boxes at fixed places.
_OTHER_OUTPUTS = (GuidedAnchorHead, SABLRetinaHead, YOLOV3Head)

_FAR = 1e5  # pixels; some heads predict exponents, which may overflow


@SCORERS.register_module()
class DenseDetectionScorer(DetectionScorer):
    """Scores detectors with a dense head, see :class:`~mmacs.coreset.scoring.scorers.detection.DetectionScorer`.

    Candidates are the places of each pyramid level. Where a place has several anchors its most confident one stands
    for it: so crowded images keep their candidates from being many anchors of few objects, and scoring is cheap.
    Class probabilities have the head's centerness or objectness multiplied in.

    Two more columns take the head's own loss: **loss**, the sum of its terms for that image alone, and **grad**, the
    L2 norm of that sum's gradient at the head's outputs. Both follow the head's rules for images without objects and
    for crowds, and grow with the number of objects where the head's normaliser does not keep up. They are dear: the
    head's loss is called once per image, with its own assignment of objects.

    Args:
        num_candidates (int): Candidates kept of the teacher per level. Defaults to 32.
        num_hard_negatives (int): Defaults to 32.
        score_threshold (float): Defaults to 0.3.
    """

    columns = {
        **DetectionScorer.columns,
        'loss': "the head's own loss of the image alone",
        'grad': "norm of that loss's gradient at the head's outputs",
    }
    training_columns = frozenset({'evs', 'loss', 'sufficiency'})

    def __init__(self, num_candidates: int = 32, num_hard_negatives: int = 32, score_threshold: float = 0.3) -> None:
        super().__init__(num_candidates, num_hard_negatives, score_threshold)

    def check(self, model: nn.Module, columns: Sequence[str]) -> None:
        """Require a one-stage detector with a box head that sees nothing but images."""
        head = getattr(model, 'bbox_head', None)
        other_kind = isinstance(model, (DetectionTransformer, RPN)) or hasattr(model, 'language_model')
        if other_kind or not hasattr(head, 'predict_by_feat'):
            raise MmacsError(
                f'DenseDetectionScorer scores one-stage detectors of classes in images, with a bbox_head, not '
                f'{type(model).__name__}; TwoStageDetectionScorer and QueryDetectionScorer score others'
            )
        dear = [column for column in columns if column in ('loss', 'grad')]
        if dear and isinstance(head, LDHead):
            raise MmacsError(
                f'{" and ".join(dear)} cannot be computed for {type(head).__name__}, whose loss needs the outputs of '
                f'the detector that it learns from; choose other columns'
            )
        super().check(model, columns)

    def has_candidates(self, model: nn.Module) -> bool:
        """Whether the head predicts boxes at anchors or points in a way that is known."""
        head = model.bbox_head
        decodes = hasattr(head, 'bbox_coder') or isinstance(head, (FoveaHead, RepPointsHead, YOLOXHead))
        return decodes and hasattr(head, 'prior_generator') and not isinstance(head, _OTHER_OUTPUTS)

    def hooked_module(self, model: nn.Module) -> Optional[nn.Module]:
        """The head, unless it gives other outputs in training."""
        return None if _differs_in_training(model.bbox_head) else model.bbox_head

    def outputs(self, model: nn.Module, inputs: Tensor, data_samples: List[Any]) -> Any:
        """See :meth:`Scorer.outputs`: what the head returns; with its inputs, if its loss needs other outputs."""
        features = model.extract_feat(inputs)
        outputs = model.bbox_head(features)
        return _Untapped(outputs, features) if _differs_in_training(model.bbox_head) else outputs

    def candidates(self, model: nn.Module, outputs: Any, data_samples: List[Any]) -> Candidates:
        """See :meth:`DetectionScorer.candidates`."""
        levels = dense_levels(model.bbox_head, outputs)
        keys = [level.best_anchors() for level in levels]
        numbers = torch.cat([key.new_full(key.shape[1:], number) for number, key in enumerate(keys)])
        return Candidates(*predictions_at(levels, keys), numbers, torch.cat(keys, 1), levels)

    def at_teachers(
        self,
        model: nn.Module,
        outputs: Any,
        data_samples: List[Any],
        own: Candidates,
        teacher: Kept,
        teacher_outputs: Dict[str, Tensor],
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """The same anchors; the teacher is silent about the places that it kept none of."""
        levels, silent = own.source, []
        for level, keys in zip(levels, teacher.key.chunk(len(levels), 1)):
            places = keys.div(level.num_priors, rounding_mode='floor')
            is_silent = torch.ones(len(keys), level.num_places + 1, dtype=torch.bool, device=keys.device)
            silent.append(is_silent.scatter_(1, places % (level.num_places + 1), False)[:, :-1])  # -1 goes last
        probs, boxes = predictions_at(levels, teacher.key.clamp_min(0).chunk(len(levels), 1))
        return probs, boxes, torch.cat(silent, 1)

    def detections(self, model: nn.Module, outputs: Any, data_samples: List[Any]) -> List[Any]:
        """See :meth:`DetectionScorer.detections`."""
        metas = [sample.metainfo for sample in data_samples]
        outputs = _of_images(_head_outputs(outputs), slice(None))
        return model.bbox_head.predict_by_feat(*outputs, batch_img_metas=metas, rescale=False)

    def score(
        self,
        model: nn.Module,
        outputs: Any,
        data_samples: List[Any],
        teacher_outputs: Dict[str, Tensor],
        columns: Sequence[str],
    ) -> Dict[str, Tensor]:
        """See :meth:`Scorer.score`."""
        scores = super().score(model, outputs, data_samples, teacher_outputs, columns)
        if {'loss', 'grad'} & set(columns):
            head, outputs = model.bbox_head, _training_outputs(model.bbox_head, outputs)
            with _alone(head):
                found = [
                    head_loss(head, _of_images(outputs, slice(i, i + 1)), sample, 'grad' in columns)
                    for i, sample in enumerate(data_samples)
                ]
            dear = dict(zip(('loss', 'grad'), map(torch.stack, zip(*found))))
            scores.update({name: column for name, column in dear.items() if name in columns})
        return scores


class _Untapped(NamedTuple):
    """Outputs of a head that gives others in training."""

    outputs: Tuple[Any, ...]
    features: Sequence[Tensor]


class DenseLevel(NamedTuple):
    """Predictions at the P anchors of each place of one pyramid level, as views of the head's outputs."""

    head: nn.Module
    number: int
    logits: Tensor  # (B, P, K or K + 1, H, W)
    codes: Tensor  # (B, P, D, H, W), boxes as the head codes them
    quality: Optional[Tensor]  # (B, P, H, W), logits of centerness, objectness or IoU
    priors: Tensor  # (H W P, 4) anchors, or (H W P, 2) points

    @property
    def num_priors(self) -> int:
        """P."""
        return self.logits.shape[1]

    @property
    def num_places(self) -> int:
        """H W."""
        return self.logits.shape[-2] * self.logits.shape[-1]

    def best_anchors(self) -> Tensor:
        """The most confident anchor of each place, its index into ``priors``; int64, shape (B, H W)."""
        places = torch.arange(self.num_places, device=self.logits.device)
        if self.num_priors == 1:
            return places.expand(len(self.logits), -1)
        if _is_softmax(self.head):
            confidence = self._probabilities(self.logits, 2).amax(2)
        else:
            confidence = self.logits.amax(2)  # the greatest logit has the greatest probability
            if self.quality is not None:
                confidence = self._probabilities(confidence, 1) * self.quality.sigmoid()
        return places * self.num_priors + confidence.max(1).indices.flatten(1)  # much faster here than argmax

    def at(self, anchors: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """Class probabilities (B, M, K), box codes (B, M, D) and priors (B, M, 4 or 2) of anchors.

        Args:
            anchors (Tensor): Indices into ``priors``, int64, shape (B, M).
        """
        place, prior = anchors.div(self.num_priors, rounding_mode='floor'), anchors % self.num_priors
        rows = torch.arange(len(anchors), device=anchors.device)[:, None]
        where = (rows, prior, slice(None), place)
        probs = self._probabilities(self.logits.flatten(3)[where], 2)
        if self.quality is not None:
            probs = probs * self.quality.flatten(2)[rows, prior, place].sigmoid()[..., None]
        return probs, self.codes.flatten(3)[where], self.priors[anchors]

    def _probabilities(self, logits: Tensor, dim: int) -> Tensor:
        if isinstance(self.head, TOODHead):  # gives probabilities
            return logits
        if _is_softmax(self.head):
            return logits.softmax(dim).narrow(dim, 0, self.head.num_classes)
        return logits.sigmoid()


def dense_levels(head: nn.Module, outputs: Any) -> List[DenseLevel]:
    """Sort the outputs of a dense head.

    Args:
        head (nn.Module): The head.
        outputs (Any): What it returned: per level class logits (B, P K, H, W), box codes (B, P D, H, W) and further
            maps, of which one with P channels is a quality. Others, such as mask coefficients, are left out.

    Returns:
        List[DenseLevel]: From the finest level to the coarsest, float32, without gradients.
    """
    logits, codes, *further = _of_images(_head_outputs(outputs), slice(None))
    sizes = [maps.shape[-2:] for maps in logits]
    priors = head.prior_generator.grid_priors(sizes, dtype=torch.float32, device=logits[0].device)
    levels = []
    for i, (own_logits, own_codes, own_priors) in enumerate(zip(logits, codes, priors)):
        num_priors = own_logits.shape[1] // head.cls_out_channels
        others = [maps[i] for maps in further if isinstance(maps, (list, tuple)) and maps[i].shape[1] == num_priors]
        parts = [maps.float().unflatten(1, (num_priors, -1)) for maps in (own_logits, own_codes)]
        levels.append(DenseLevel(head, i, *parts, others[0].float() if others else None, _plain(own_priors)))
    return levels


def predictions_at(levels: Sequence[DenseLevel], anchors: Sequence[Tensor]) -> Tuple[Tensor, Tensor]:
    """Class probabilities (B, M, K) and boxes (B, M, 4) of anchors; M are those of all levels, one after the other.

    Args:
        levels (Sequence[DenseLevel]): The levels.
        anchors (Sequence[Tensor]): Per level indices into its ``priors``, int64, shape (B, M of the level).
    """
    parts = zip(*(level.at(chosen) for level, chosen in zip(levels, anchors)))
    probs, codes, priors = (torch.cat(part, 1) for part in parts)
    numbers = torch.cat([chosen.new_full(chosen.shape, level.number) for level, chosen in zip(levels, anchors)], 1)
    # of all levels at once: of so few boxes decoding costs the calls, not the arithmetic
    boxes = decode(levels[0].head, numbers.flatten(), codes.flatten(0, 1), priors.flatten(0, 1))
    return probs, boxes.clamp(-_FAR, _FAR).unflatten(0, numbers.shape)


def decode(head: nn.Module, level: Tensor, codes: Tensor, priors: Tensor) -> Tensor:
    """Boxes from box codes, not clipped to the image.

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
        codes, priors = head.integral(codes) * stride[:, :1], head.anchor_center(priors)
    return _plain(head.bbox_coder.decode(priors, codes))


def head_loss(head: nn.Module, outputs: Sequence[Any], sample: Any, with_gradient: bool) -> Tuple[Tensor, Tensor]:
    """The head's loss of one image alone and the L2 norm of its gradient at the head's outputs.

    Buffers are as before afterwards: some losses, such as GHM's, keep statistics of what they have seen.

    Args:
        head (nn.Module): The head.
        outputs (Sequence): Its outputs for that image, detached.
        sample (DetDataSample): The image's annotations.
        with_gradient (bool): Whether the norm is wanted; it is 0 otherwise.

    Returns:
        Tuple[Tensor, Tensor]: Two scalars.
    """
    instances, ignored, metas = unpack_gt_instances([sample])
    leaves = [tensor.requires_grad_(with_gradient) for tensor in _tensors(outputs)]
    with _keep_buffers(head):
        with torch.set_grad_enabled(with_gradient):
            terms = head.loss_by_feat(*outputs, instances, metas, ignored)
            loss = sum(term.sum() for name, value in terms.items() if 'loss' in name for term in _tensors(value))
        if not with_gradient:
            return loss, loss.new_zeros(())
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    squares = [gradient.square().sum() for gradient in gradients if gradient is not None]
    return loss.detach(), torch.stack(squares).sum().sqrt()


@contextmanager
def _keep_buffers(module: nn.Module) -> Iterator[None]:
    """Put back all buffers afterwards."""
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                buffer.copy_(before[name])


@contextmanager
def _alone(head: nn.Module) -> Iterator[None]:
    """Keep the head's loss from averaging its normalisers over processes, which score different images."""
    if get_world_size() == 1:
        yield
        return
    modules = {sys.modules[kind.__module__] for kind in type(head).__mro__}
    averages = {module: module.reduce_mean for module in modules if hasattr(module, 'reduce_mean')}
    try:
        for module in averages:
            module.reduce_mean = lambda tensor: tensor
        yield
    finally:
        for module, average in averages.items():
            module.reduce_mean = average


def _training_outputs(head: nn.Module, outputs: Any) -> Sequence[Any]:
    """What the head's loss takes: its outputs as in training, of layers in eval mode."""
    if not isinstance(outputs, _Untapped):
        return outputs
    training, head.training = head.training, True  # of the head alone: its layers keep their mode
    try:
        return head([feature.float() for feature in outputs.features])
    finally:
        head.training = training


def _differs_in_training(head: nn.Module) -> bool:
    kinds = (CenterNetUpdateHead, GuidedAnchorHead, RepPointsHead, VFNetHead)
    return isinstance(head, kinds) or getattr(head, 'norm_on_bbox', False)


def _head_outputs(outputs: Any) -> Sequence[Any]:
    return outputs.outputs if isinstance(outputs, _Untapped) else outputs


def _of_images(outputs: Any, images: slice) -> Any:
    """Nested outputs of some images of the batch, detached, float32."""
    if isinstance(outputs, Tensor):
        return outputs[images].detach().float()
    return [_of_images(part, images) for part in outputs] if isinstance(outputs, (list, tuple)) else outputs


def _tensors(nested: Any) -> List[Tensor]:
    if isinstance(nested, Tensor):
        return [nested]
    return [tensor for part in nested for tensor in _tensors(part)] if isinstance(nested, (list, tuple)) else []


def _is_softmax(head: nn.Module) -> bool:
    return not getattr(head, 'use_sigmoid_cls', True)


def _distances_to_boxes(points: Tensor, distances: Tensor) -> Tensor:
    """Distances left, top, right, bottom of points to boxes, shape (N, 4)."""
    return torch.cat([points - distances[:, :2], points + distances[:, 2:]], 1)


def _plain(boxes: Any) -> Tensor:
    """Boxes as a tensor, whether or not MMDetection wraps them."""
    return getattr(boxes, 'tensor', boxes)
