"""What the images of a data set hold by their annotations, and what a coreset makes of the mixture."""

from typing import List, NamedTuple, Tuple

import numpy as np

from mmacs.coreset.ground_truth import GroundTruth
from mmacs.utils.errors import printable


class Contents(NamedTuple):
    """What the annotations say, one entry per object, or per label of an image: K of them in M images.

    Attributes:
        detection (bool): Whether there are boxes.
        image (np.ndarray): int64, shape (K,), ascending: position of the image.
        label (np.ndarray): int64, shape (K,).
        area (np.ndarray): float64, shape (K,), of the box in square pixels of the file; 0 without boxes.
        names (List[str]): Names of the classes.
        counts (np.ndarray): int64, shape (M,): entries per image.
    """

    detection: bool
    image: np.ndarray
    label: np.ndarray
    area: np.ndarray
    names: List[str]
    counts: np.ndarray


def read_contents(truth: GroundTruth) -> Contents:
    """Returns the contents of all images; crowds and other ignored regions are left out.

    Args:
        truth (GroundTruth): What the annotations say. Classes without a name are named by their number.
    """
    image = np.repeat(np.arange(len(truth.ends)), np.diff(truth.ends, prepend=0))[~truth.ignored]
    label, (x1, y1, x2, y2) = truth.labels[~truth.ignored], truth.boxes[~truth.ignored].astype(np.float64).T
    names = [printable(name, 100) for name in truth.classes.tolist()]
    names += [str(number) for number in range(len(names), truth.labels.max(initial=-1) + 1)]
    counts = np.bincount(image, minlength=len(truth.ends))
    return Contents(bool(truth.detection), image, label, (x2 - x1) * (y2 - y1), names, counts)


def class_shares(contents: Contents, chosen: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Returns the share of each class in all images and in the chosen ones; float64, shape (number of classes,) each.

    Args:
        contents (Contents): The annotations.
        chosen (np.ndarray): bool, shape (M,).
    """
    everywhere = np.bincount(contents.label, minlength=len(contents.names))
    inside = np.bincount(contents.label[chosen[contents.image]], minlength=len(contents.names))
    return everywhere / max(1, everywhere.sum()), inside / max(1, inside.sum())


def most_shifted(everywhere: np.ndarray, inside: np.ndarray, count: int) -> np.ndarray:
    """Returns the classes that a coreset over- and under-represents most.

    They are those of largest ``|q - p| / sqrt(p)``, the terms of Pearson's chi-squared statistic: a plain ratio would
    name rare classes alone.

    Args:
        everywhere (np.ndarray): p, share of each class in all images, shape (C,).
        inside (np.ndarray): q, share in the chosen images, shape (C,).
        count (int): How many classes.

    Returns:
        np.ndarray: int64, shape (min(count, C),), from the most over- to the most under-represented.
    """
    shift = (inside - everywhere) / np.sqrt(np.maximum(everywhere, 1e-12))
    kept = np.argsort(-np.abs(shift), kind='stable')[:count]
    return kept[np.argsort(-shift[kept], kind='stable')]
