"""What selection knows of the training images: arrays with one entry per image."""

import json
import os
from functools import cached_property
from typing import Any, Dict, Mapping, Optional, Sequence

import numpy as np
from mmengine.dist import get_rank
from scipy.sparse import csr_matrix

from mmacs.coreset.annotations import NO_OBJECTS, read_annotations
from mmacs.coreset.image_contents import Contents, image_contents
from mmacs.datasets.distinct_images import DistinctImages
from mmacs.utils.distributed import everywhere, on_main
from mmacs.utils.errors import MmacsError


class TrainingData:
    """The distinct images behind a training data set, M of them, as arrays.

    Args:
        images (DistinctImages): The images.
        arrays (Mapping[str, np.ndarray]): What :func:`mmacs.coreset.annotations.read_annotations` gives of them.
        contents (Contents, optional): See :func:`mmacs.coreset.image_contents.image_contents`.

    Attributes:
        images (DistinctImages): The images.
        positions (np.ndarray): Which of them each index of the data set shows, int64, shape (N,).
        fingerprint (str): Hash of the images' names, sizes and annotations in order: another data set has another one.
            Contents of files are not read; their sizes are, where they lie on a local disk.
        contents (Contents, optional): Hashes of what the images show; None where nobody asked for them.
        by_shape (np.ndarray): All positions, int64, shape (M,), such that batches need seldom be split by their padded
            shape. Images of one shape lie next to each other, and shapes are in the order of their proportions: what
            is resized to one scale has the same shape then if it has the same proportions.
        noisy (np.ndarray): Images whose labels were made wrong on purpose, bool, shape (M,).
    """

    def __init__(
        self, images: DistinctImages, arrays: Mapping[str, np.ndarray], contents: Optional[Contents] = None
    ) -> None:
        self.images = images
        self.contents = contents
        self.positions = images.positions
        self.fingerprint = str(arrays['fingerprint'])
        self.by_shape = arrays['by_shape']
        self.noisy = arrays['noisy']
        self._classes, self._class_ends = arrays['classes'], arrays['class_ends']
        self._counts, self._ids = arrays['counts'], arrays['ids']
        self._paths, self._places = arrays['paths'], arrays['places']

    @classmethod
    def read(
        cls,
        images: DistinctImages,
        cache_dir: Optional[os.PathLike] = None,
        with_contents: bool = False,
        num_workers: int = 0,
    ) -> 'TrainingData':
        """Read the annotations. Call it in all processes: the main one reads them, and tells the others.

        Args:
            images (DistinctImages): The images.
            cache_dir (os.PathLike, optional): Folder in which the arrays are kept, for later runs on the same data.
            with_contents (bool): Whether the images' files are read too, for :attr:`contents`.
            num_workers (int): Workers for that, where it needs any.

        Raises:
            MmacsError: If the annotations are not understood, the folder can't be written to, an image can't be read,
                or processes have different numbers of images.
        """
        arrays = on_main(lambda: read_annotations(images, cache_dir))
        expected, wrong = len(arrays['noisy']), None
        if len(images) != expected:
            wrong = f'process {get_rank()} has {len(images)} training images, and the main process {expected}'
        everywhere(wrong)
        contents = image_contents(images, arrays, cache_dir, num_workers) if with_contents else None
        return cls(images, arrays, contents)

    def __len__(self) -> int:
        """Returns the number of distinct images, M."""
        return len(self.images)

    @property
    def has_classes(self) -> bool:
        """Whether it is known which class each object or image is of."""
        return bool((self._classes >= 0).all())

    @cached_property
    def labels(self) -> csr_matrix:
        """Which classes each image holds, bool, shape (M, C); crowd and ignored boxes don't count.

        Raises:
            MmacsError: If a class is negative, or not named.
        """
        wrong = np.flatnonzero(self._classes < 0)
        if len(wrong):
            position = int(np.searchsorted(self._class_ends, wrong[0], side='right'))
            image = os.fsdecode(self._paths[position]) or position
            raise MmacsError(f'image {image} has the class {self._classes[wrong[0]]}: classes are numbered from 0')
        shape = (len(self), int(self._classes.max(initial=-1)) + 1)
        held = np.ones(len(self._classes), dtype=bool)
        return csr_matrix((held, self._classes, np.append(0, self._class_ends)), shape=shape)

    @property
    def object_counts(self) -> np.ndarray:
        """Objects of each image, crowd and ignored boxes left out, int64, shape (M,).

        Raises:
            MmacsError: If the data set is none of objects.
        """
        if (self._counts == NO_OBJECTS).any():
            raise MmacsError("normalisation 'stratified_rank' needs a data set with objects: take 'rank'")
        return self._counts

    @cached_property
    def image_ids(self) -> np.ndarray:
        """See :meth:`DistinctImages.image_id`, of all images, shape (M,)."""
        known = enumerate(zip(self._ids.tolist(), self._paths.tolist()))
        ids = [json.loads(one) if one else os.fsdecode(path) or position for position, (one, path) in known]
        return np.asarray(ids)

    @cached_property
    def by_key(self) -> Dict[Any, int]:
        """Position of each image by what tells it apart in a batch: its file, or its place in its data set.

        Raises:
            MmacsError: If two images share a key.
        """
        keys = zip(self._paths.tolist(), self._places.tolist())
        found = {os.fsdecode(path) or place: position for position, (path, place) in enumerate(keys)}
        if len(found) != len(self):
            raise MmacsError(
                'images of this data set cannot be told apart while training, which harvest, unbiased and from_cache '
                'need: they have no img_path, or share one'
            )
        return found

    def positions_of(self, data_samples: Sequence[Any]) -> np.ndarray:
        """Returns the positions of the images of data samples, int64, shape (B,).

        Raises:
            MmacsError: If they don't say which images they show.
        """
        keys = [os.fspath(sample.get('img_path') or '') or sample.get('sample_idx') for sample in data_samples]
        if not self.by_key.keys() >= set(keys):
            raise MmacsError("cannot tell the images of a batch: give the packing transform's meta_keys 'img_path'")
        return np.asarray([self.by_key[key] for key in keys], dtype=np.int64)
