"""Detections of one image against its ground truth: average precision, precision and recall. Pure mathematics."""

from typing import NamedTuple, Tuple

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of the IoU, as COCO's
RECALLS = np.linspace(0, 1, 101)


class Boxes(NamedTuple):
    """Boxes of one image; ``scores`` are empty for ground truth.

    Detections must come sorted by falling score.
    """

    boxes: np.ndarray  # float, (N, 4): x1, y1, x2, y2 in pixels
    labels: np.ndarray  # whole numbers, (N,)
    scores: np.ndarray = np.zeros(0)  # float in [0, 1], (N,)


class Matches(NamedTuple):
    """What became of an image's D detections, sorted by falling score, at each of the T :data:`THRESHOLDS`."""

    right: np.ndarray  # bool, (T, D), which have an object of their own
    counts: np.ndarray  # bool, (T, D), which are right or wrong; others lie in ignored regions
    scores: np.ndarray  # float in [0, 1], (D,)
    num_objects: int


def overlaps(boxes: np.ndarray, others: np.ndarray, over_first: bool = False) -> np.ndarray:
    """Intersection over union of all pairs, or over the area of the first.

    Args:
        boxes (np.ndarray): Shape (N, 4).
        others (np.ndarray): Shape (M, 4).
        over_first (bool): Whether to divide by the area of ``boxes`` alone.

    Returns:
        np.ndarray: Shape (N, M), in [0, 1]; boxes without area overlap nothing.
    """
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    area, other_area = ((b[:, 2:] - b[:, :2]).clip(0).prod(-1) for b in (boxes, others))
    whole = np.broadcast_to(area[:, None], shared.shape) if over_first else area[:, None] + other_area - shared
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


def match(found: Boxes, objects: Boxes, ignored: np.ndarray) -> Matches:
    """Match detections to objects as COCO's evaluation does.

    In the order of their scores, each detection takes the free object of its class that it overlaps most, if their IoU
    reaches the threshold. Unmatched detections that lie at least half inside an ignored region (a crowd) don't count,
    whatever their class.

    Args:
        found (Boxes): D detections, sorted by falling score.
        objects (Boxes): G objects.
        ignored (np.ndarray): Boxes of ignored regions, shape (I, 4).

    Returns:
        Matches: At all thresholds.
    """
    overlap = overlaps(found.boxes, objects.boxes)
    overlap[found.labels[:, None] != objects.labels[None]] = 0
    right = np.zeros((len(THRESHOLDS), len(found.boxes)), dtype=bool)
    free = np.ones((len(THRESHOLDS), len(objects.boxes)), dtype=bool)
    rows = np.arange(len(THRESHOLDS))
    for detection in np.flatnonzero((overlap >= THRESHOLDS[0]).any(1)):
        available = overlap[detection] * free
        best = available.argmax(1)
        taken = available[rows, best] >= THRESHOLDS
        right[taken, detection] = True
        free[rows[taken], best[taken]] = False
    inside = (overlaps(found.boxes, ignored, over_first=True) >= 0.5).any(1)
    return Matches(right, right | ~inside, found.scores, len(objects.boxes))


def average_precision(matches: Matches) -> float:
    """AP of one image, averaged over IoUs of 0.50 to 0.95.

    The detections of all classes form one ranking, in which one is right only if its class is. A mean over classes, as
    over a data set, would be worth little in a single image: a class that is only detected has an AP of 0 however
    faint that detection is, and one that is left out for this reason may be detected falsely at no cost. In one
    ranking a false detection costs the more, the surer it is.

    An image without objects, where precision has no meaning, has 1 minus its surest detection's score.

    Returns:
        float: In [0, 1]: precision at 101 recalls (interpolated as COCO does), averaged.
    """
    right, counts, scores, num_objects = matches
    if not num_objects:
        return float(1 - scores[counts[0]].max(initial=0))
    hits = right.cumsum(1)
    precision = hits / counts.cumsum(1).clip(1)  # where one doesn't count that of the one before, which changes nothing
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    places = np.stack([np.searchsorted(recall, RECALLS) for recall in hits / num_objects])
    return float(np.take_along_axis(np.pad(envelope, ((0, 0), (0, 1))), places, 1).mean())


def precision_and_recall(matches: Matches, score_threshold: float) -> Tuple[float, float]:
    """Precision and recall of one image at an IoU of 0.5.

    Without objects nothing can be missed: the recall is 1. Without detections nothing is wrong: the precision is 1.

    Args:
        matches (Matches): The image's.
        score_threshold (float): Detections of lower score are left out; no others' matches depend on them.

    Returns:
        Tuple[float, float]: Both in [0, 1].
    """
    kept = matches.scores >= score_threshold
    hits, made, wanted = matches.right[0, kept].sum(), matches.counts[0, kept].sum(), matches.num_objects
    return float(hits / made) if made else 1.0, float(hits / wanted) if wanted else 1.0
