"""The images of a data set and what their annotations say, as arrays on disk, so that a report builds no data set."""

import os
from array import array
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence
from zipfile import BadZipFile

import numpy as np

from mmacs.datasets.distinct_images import DistinctImages
from mmacs.utils.errors import MmacsError
from mmacs.utils.files import atomic_path
from mmacs.utils.progress import phase

_MAX_CLASSES = 1_000_000


class GroundTruth(NamedTuple):
    """What the annotations of M images say: K objects, or labels of whole images.

    Attributes:
        detection (np.ndarray): bool, shape (): whether these are objects with boxes.
        num_indices (np.ndarray): int64, shape (): length of the data set, which may show images several times.
        ids (np.ndarray): Ids of the images, or their files, or positions, shape (M,).
        paths (np.ndarray): Their files, bytes, shape (M,); empty where images lie in no files of their own.
        ends (np.ndarray): Where each image's objects end in the following, int64, shape (M,).
        labels (np.ndarray): int64, shape (K,).
        boxes (np.ndarray): x1, y1, x2, y2 in pixels of the file, float32, shape (K, 4); 0 without boxes.
        ignored (np.ndarray): Crowds and other ignored regions, bool, shape (K,).
        classes (np.ndarray): Names of the classes, shape (C,).
    """

    detection: np.ndarray
    num_indices: np.ndarray
    ids: np.ndarray
    paths: np.ndarray
    ends: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    ignored: np.ndarray
    classes: np.ndarray

    @classmethod
    def of(cls, images: DistinctImages, classes: Sequence[str] = ()) -> 'GroundTruth':
        """Collect the ground truth of all images.

        Args:
            images (DistinctImages): The images.
            classes (Sequence[str]): Names of the classes.
        """
        ids: List[Any] = []
        paths: List[bytes] = []
        ends, labels, boxes, ignored = array('q'), array('q'), array('f'), bytearray()
        detection = False
        with phase('collecting the ground truth', len(images)) as under_way:
            for position, info in enumerate(under_way.each(images.infos())):
                ids.append(info.get('img_id', info.get('img_path', position)))
                paths.append(os.fsencode(info.get('img_path') or ''))
                if 'instances' in info:
                    detection = True
                    for one in info['instances']:
                        labels.append(one['bbox_label'])
                        boxes.extend(one['bbox'])
                        ignored.append(bool(one.get('ignore_flag')))
                else:
                    labels.extend(np.ravel(info.get('gt_label', ())).tolist())
                ends.append(len(labels))
        if not detection:
            boxes, ignored = array('f', bytes(16 * len(labels))), bytearray(len(labels))
        return cls(
            np.asarray(detection),
            np.asarray(len(images.positions)),
            np.asarray(ids),
            np.asarray(paths, dtype=np.bytes_),
            np.asarray(ends, dtype=np.int64),
            np.asarray(labels, dtype=np.int64),
            np.asarray(boxes, dtype=np.float32).reshape(-1, 4),
            np.frombuffer(ignored, dtype=bool),
            np.asarray([str(name) for name in classes], dtype=np.str_),
        )

    def part(self, position: int) -> slice:
        """Returns where an image's objects or labels lie in ``labels``, ``boxes`` and ``ignored``."""
        return slice(int(self.ends[position - 1]) if position else 0, int(self.ends[position]))

    def instances(self, position: int) -> List[Dict[str, Any]]:
        """Returns the objects of an image, as MMDetection's data sets give them; none without boxes."""
        if not self.detection:
            return []
        part = self.part(position)
        return [
            {'bbox': box, 'bbox_label': label, 'ignore_flag': ignored}
            for box, label, ignored in zip(
                self.boxes[part].tolist(), self.labels[part].tolist(), self.ignored[part].tolist()
            )
        ]


def write_ground_truth(path: os.PathLike, images: DistinctImages, classes: Sequence[str], fingerprint: str) -> None:
    """Write the ground truth of a run's images, unless the file holds that of the same ones.

    Args:
        path (os.PathLike): An ``.npz`` file.
        images (DistinctImages): The images.
        classes (Sequence[str]): Names of the classes.
        fingerprint (str): Tells the images and their annotations from others.
    """
    if _fingerprint(path) == fingerprint:
        return
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, fingerprint=fingerprint, **GroundTruth.of(images, classes)._asdict())


def _fingerprint(path: os.PathLike) -> Optional[str]:
    try:
        with np.load(path) as arrays:
            return str(arrays['fingerprint'])
    except Exception:  # there is none, or whatever a damaged file leads to
        return None


def read_ground_truth(path: os.PathLike) -> GroundTruth:
    """Read what :func:`write_ground_truth` wrote.

    Raises:
        MmacsError: If the file is damaged, or its parts don't fit together.
        FileNotFoundError: If there is none.
    """
    try:
        with np.load(path) as arrays:
            found = GroundTruth(**{name: arrays[name] for name in GroundTruth._fields})
        _check(found)
    except FileNotFoundError:
        raise
    except (BadZipFile, EOFError, KeyError, MemoryError, OSError, TypeError, ValueError) as error:
        raise MmacsError(f'{Path(path)} is damaged ({error}): the next start of the run writes it anew') from error
    return found


def _check(found: GroundTruth) -> None:
    objects = len(found.labels) if found.labels.ndim == 1 else -1
    kinds = {'detection': 'b', 'ids': 'iuUS', 'paths': 'S', 'ends': 'i', 'labels': 'i', 'boxes': 'f', 'ignored': 'b'}
    shapes = {'detection': (), 'num_indices': (), 'boxes': (objects, 4), 'ignored': (objects,)}
    shapes.update({'paths': found.ends.shape, 'ids': found.ends.shape})
    for name, kind in {**kinds, 'num_indices': 'i', 'classes': 'U'}.items():
        if getattr(found, name).dtype.kind not in kind:
            raise ValueError(f'{name} are of the type {getattr(found, name).dtype}')
    if any(getattr(found, name).shape != shape for name, shape in shapes.items()) or found.ends.ndim != 1:
        raise ValueError('its arrays have different lengths')
    ends = np.concatenate([[0], found.ends, [objects]])
    if (np.diff(ends) < 0).any() or found.ends[-1:].tolist() not in ([], [objects]):
        raise ValueError('objects belong to no image')
    if not ((found.labels >= 0) & (found.labels < _MAX_CLASSES)).all() or not np.isfinite(found.boxes).all():
        raise ValueError('a label or a box is none')
