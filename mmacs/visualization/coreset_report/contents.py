"""What the images of a data set hold by their annotations, and what a coreset makes of the mixture."""

from typing import List, NamedTuple, Sequence, Tuple

import numpy as np

from mmacs.datasets.distinct_images import DistinctImages


class Contents(NamedTuple):
    """What the annotations say, one entry per object, or per label of an image: K of them in M images.

    Attributes:
        detection (bool): Whether there are boxes.
        image (np.ndarray): int64, shape (K,): position of the image.
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


def read_contents(images: DistinctImages, classes: Sequence[str] = ()) -> Contents:
    """Collect the ground truth of all images; crowds and other ignored regions are left out.

    Args:
        images (DistinctImages): The images.
        classes (Sequence[str]): Names of the classes; those that it lacks are named by their number.
    """
    positions, labels, areas, detection = [], [], [], False
    for position, info in enumerate(images.infos()):
        if 'instances' in info:
            detection = True
            for one in info['instances']:
                if not one.get('ignore_flag'):
                    x1, y1, x2, y2 = one['bbox']
                    positions.append(position)
                    labels.append(one['bbox_label'])
                    areas.append((x2 - x1) * (y2 - y1))
        else:
            for label in np.ravel(info.get('gt_label', ())).tolist():
                positions.append(position)
                labels.append(label)
                areas.append(0.0)
    image, label = np.asarray(positions, dtype=np.int64), np.asarray(labels, dtype=np.int64)
    names = [str(name) for name in classes]
    names += [str(number) for number in range(len(names), label.max(initial=-1) + 1)]
    return Contents(detection, image, label, np.asarray(areas), names, np.bincount(image, minlength=len(images)))


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
