"""How much two computations' detections or class scores differ, end to end."""

from typing import Dict, List, Mapping

import numpy as np

LOWEST = 0.05  # score of detections that are compared
_OVERLAP = 0.5  # intersection over union of two boxes that are taken for the same detection


class OutputDifference:
    """Adds up the differences of outputs over images.

    Detections match if they have the same class and overlap by more than half, those of the highest score first.
    """

    def __init__(self) -> None:
        self._counts: Dict[str, int] = {}
        self._values: Dict[str, List[float]] = {}

    def add(self, expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> None:
        """Compare the outputs for a batch: boxes, scores and labels; scores of classes; or raw tensors.

        Args:
            expected (Mapping[str, np.ndarray]): Outputs of the reference, by name.
            found (Mapping[str, np.ndarray]): Those to compare with it.
        """
        if {'boxes', 'scores', 'labels'} <= expected.keys():
            for image in range(len(expected['boxes'])):
                self._add_detections(
                    *({name: part[image] for name, part in side.items()} for side in (expected, found))
                )
        elif 'scores' in expected:
            same = expected['scores'].argmax(-1) == found['scores'].argmax(-1)
            self._count('images', same.size)
            self._count('same_class', int(same.sum()))
            self._extend('score_difference', np.abs(expected['scores'] - found['scores']).max(-1))
        else:
            for name, values in expected.items():
                self._extend(f'{name}_difference', np.abs(values - found[name]).ravel())

    def report(self) -> Dict[str, float]:
        """Returns counts, and the median and largest of each difference."""
        report: Dict[str, float] = dict(self._counts)
        for name, values in self._values.items():
            report[f'{name}_median'] = float(np.median(values)) if values else 0.0
            report[f'{name}_largest'] = float(np.max(values)) if values else 0.0
        return report

    def _add_detections(self, expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> None:
        wanted = np.flatnonzero(expected['scores'] >= LOWEST)
        left = list(np.flatnonzero(found['scores'] > 0))
        self._count('images', 1)
        self._count('detections', len(wanted))
        self._count('matched', 0)
        self._values.setdefault('box_difference', [])
        self._values.setdefault('score_difference', [])
        for one in wanted[np.argsort(-expected['scores'][wanted], kind='stable')]:
            same = [other for other in left if found['labels'][other] == expected['labels'][one]]
            overlaps = _overlaps(expected['boxes'][one], found['boxes'][same])
            if len(same) == 0 or overlaps.max() <= _OVERLAP:
                continue
            other = same[int(overlaps.argmax())]
            left.remove(other)
            self._count('matched', 1)
            self._extend('box_difference', [np.abs(expected['boxes'][one] - found['boxes'][other]).max()])
            self._extend('score_difference', [abs(float(expected['scores'][one]) - float(found['scores'][other]))])

    def _count(self, name: str, more: int) -> None:
        self._counts[name] = self._counts.get(name, 0) + int(more)

    def _extend(self, name: str, values: object) -> None:
        self._values.setdefault(name, []).extend(float(value) for value in values)


def _overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of a box, shape (4,), with others, shape (N, 4)."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) + np.prod(box[2:] - box[:2])
    return shared / np.maximum(areas - shared, 1e-9)
