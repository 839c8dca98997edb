"""From what a head predicts at all anchors to a fixed number of candidates: pure functions, the same for all images."""

from typing import Callable, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from mmacs.adapters.kinds import DenseLevel, DetectionRules, at_anchors
from mmacs.deploy.tracing import is_exporting

UNUSED = float('-inf')  # score of rows that stand for nothing

Decode = Callable[[Sequence[DenseLevel], Sequence[Tensor]], Tensor]


class Candidates(NamedTuple):
    """Boxes that may be detections, the same number in each image."""

    boxes: Tensor  # (B, N, 4), x1, y1, x2, y2 in pixels of the input
    scores: Tensor  # (B, N), probabilities or UNUSED
    labels: Tensor  # (B, N), int64

    def at(self, rows: Tensor, scores: Tensor) -> 'Candidates':
        """Returns those of chosen rows, int64, shape (B, M), with these scores."""
        boxes = self.boxes.gather(1, rows[..., None].expand(-1, -1, 4))
        return Candidates(boxes, scores, self.labels.gather(1, rows))


def best(scores: Tensor, count: int) -> Tuple[Tensor, Tensor]:
    """Returns the best scores and their places, both (B, count), UNUSED at 0 where there are fewer.

    Of equal scores, of which quantized predictions have many, the first come first, as in MMDetection and ONNX Runtime.

    Args:
        scores (Tensor): Probabilities, logits, or UNUSED, float32, shape (B, N); N may be less than ``count``.
        count (int): How many.
    """
    scores = pad(scores, (0, count), value=UNUSED)
    if is_exporting():
        found, places = scores.topk(count)
    else:  # which in torch orders equal ones as it likes
        keys = (_ordered_bits(scores) << 32) - torch.arange(scores.shape[1], device=scores.device)
        places = keys.topk(count).indices
        found = scores.gather(1, places)
    return found, torch.where(found == UNUSED, 0, places)


def _ordered_bits(values: Tensor) -> Tensor:
    """Returns integers, int64, that are ordered as float32 values are."""
    bits = values.view(torch.int32).long()
    return torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def dense_candidates(levels: Sequence[DenseLevel], decode: Decode, rules: DetectionRules) -> Tuple[Candidates, Tensor]:
    """Returns the candidates of a dense head, not clipped to the image, and the levels that they come from, (B, N).

    Args:
        levels (Sequence[DenseLevel]): What it predicts.
        decode (Callable): From levels and anchors of each to boxes, see
            :meth:`mmacs.adapters.kinds.DenseAdapter.decode`.
        rules (DetectionRules): Which of them are candidates.
    """
    choose = _best_classes if rules.best_class else _best_pairs
    anchors, scores, labels = zip(*(choose(level, rules) for level in levels))
    numbers = [torch.full_like(chosen, number) for number, chosen in enumerate(anchors)]
    candidates = Candidates(decode(levels, anchors), torch.cat(scores, 1), torch.cat(labels, 1))
    return candidates, torch.cat(numbers, 1)


def clipped(candidates: Candidates, image_size: Sequence[int], rules: DetectionRules) -> Candidates:
    """Returns the candidates within an image, those too small marked as unused.

    Args:
        candidates (Candidates): The candidates.
        image_size (Sequence[int]): Its height and width.
        rules (DetectionRules): Whether boxes are clipped, and which are too small.
    """
    boxes, scores, labels = candidates
    if rules.margin is not None:
        height, width = (side - rules.margin for side in image_size)
        x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
        boxes = torch.stack([x, y], -1).flatten(-2)
    if rules.min_size is not None:
        large = (boxes[..., 2:] - boxes[..., :2] > rules.min_size).all(-1)
        scores = torch.where(large, scores, UNUSED)
    return Candidates(boxes, scores, labels)


def above_threshold(scores: Tensor, rules: DetectionRules) -> Tensor:
    """Returns the scores, UNUSED where they don't reach the threshold."""
    threshold = rules.score_threshold
    if threshold is None:
        return scores
    return torch.where(scores >= threshold if rules.takes_threshold else scores > threshold, scores, UNUSED)


def _best_pairs(level: DenseLevel, rules: DetectionRules) -> Tuple[Tensor, Tensor, Tensor]:
    """Returns anchors, scores and labels, each (B, N), of the best pairs of anchor and class."""
    keys = _class_keys(level)
    num_classes = keys.shape[-1]
    keys = keys.flatten(1)
    if rules.max_candidates is None:
        pairs = torch.arange(keys.shape[1], device=keys.device).expand(keys.shape[0], -1)
    else:
        keys, pairs = best(keys, rules.max_candidates)
    scores = above_threshold(_probability(keys, level), rules)
    anchors, labels = pairs // num_classes, pairs % num_classes
    if level.quality is not None:
        quality = at_anchors(level.quality[:, :, None], anchors).squeeze(-1).sigmoid()
        scores = torch.where(scores == UNUSED, UNUSED, scores * quality)
    return anchors, scores, labels


def _best_classes(level: DenseLevel, rules: DetectionRules) -> Tuple[Tensor, Tensor, Tensor]:
    """Returns anchors, scores and labels, each (B, N), of the best class of each anchor."""
    keys, labels = _class_keys(level).max(-1)
    scores = _probability(keys, level)
    if level.quality is not None:
        scores = scores * _by_anchor(level.quality[:, :, None]).squeeze(-1).sigmoid()
    scores = above_threshold(scores, rules)
    if rules.max_candidates is not None:
        scores, anchors = best(scores, rules.max_candidates)
        return anchors, scores, labels.gather(1, anchors)
    anchors = torch.arange(scores.shape[1], device=scores.device).expand(scores.shape[0], -1)
    return anchors, scores, labels


def _class_keys(level: DenseLevel) -> Tensor:
    """Returns what orders the foreground classes as their probabilities do, which are dear, shape (B, H W P, K)."""
    logits = _by_anchor(level.logits)
    return logits.softmax(-1)[..., :-1] if level.activation == 'softmax' else logits


def _probability(keys: Tensor, level: DenseLevel) -> Tensor:
    """Returns the probabilities behind :func:`_class_keys`, UNUSED where these are."""
    return torch.where(keys == UNUSED, UNUSED, keys.sigmoid()) if level.activation == 'sigmoid' else keys


def _by_anchor(maps: Tensor) -> Tensor:
    """(B, P, D, H, W) to (B, H W P, D)."""
    return maps.permute(0, 3, 4, 1, 2).flatten(1, 3)


def as_candidates(probs: Tensor, boxes: Tensor) -> Candidates:
    """Returns all pairs of box and class, shape (B, M K).

    Args:
        probs (Tensor): Shape (B, M, K).
        boxes (Tensor): Shape (B, M, K, 4), or (B, M, 1, 4) where classes share them.
    """
    labels = torch.arange(probs.shape[-1], device=probs.device).expand_as(probs)
    return Candidates(boxes.expand(*probs.shape, 4).flatten(1, 2), probs.flatten(1), labels.flatten(1))
