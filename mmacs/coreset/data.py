"""The training images as a scorer sees them: each once, under a deterministic pipeline, with annotations."""

import hashlib
import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import cv2
import numpy as np
from mmengine.dataset import BaseDataset, ClassBalancedDataset, Compose, ConcatDataset, RepeatDataset
from mmengine.dist import broadcast_object_list, is_main_process
from scipy.sparse import csr_matrix
from torch.utils.data import Dataset

from mmacs.adapters.transforms import loads
from mmacs.teacher.side_effects import without_side_effects
from mmacs.utils.errors import MmacsError


def locate(dataset: Dataset, index: int) -> Tuple[BaseDataset, int]:
    """Find the data set, below any wrappers, that an image comes from.

    Args:
        dataset (Dataset): A data set or a wrapper of MMEngine or MMDetection around one or several.
        index (int): Index into ``dataset``.

    Returns:
        Tuple[BaseDataset, int]: The innermost data set and the index into it.

    Raises:
        MmacsError: If there is a wrapper that mmacs doesn't know.
    """
    while not isinstance(dataset, BaseDataset):
        if isinstance(dataset, ConcatDataset):
            which, index = dataset._get_ori_dataset_idx(index)
            dataset = dataset.datasets[which]
        elif isinstance(dataset, RepeatDataset):
            dataset, index = dataset.dataset, index % len(dataset.dataset)
        elif isinstance(dataset, ClassBalancedDataset):
            dataset, index = dataset.dataset, dataset.repeat_indices[index]
        elif type(dataset).__name__ == 'MultiImageMixDataset':  # MMDetection's; an image leads, others are mixed in
            dataset = dataset.dataset
        else:
            raise MmacsError(f'cannot score through the data set wrapper {type(dataset).__name__}')
    return dataset, index


def scoring_pipeline(train: Sequence[Dict[str, Any]], test: Sequence[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """The test-time pipeline with the annotations loaded where training loads them, before the image is resized.

    MMDetection's test pipelines load annotations after resizing, so that boxes are those of the original image.

    Args:
        train (Sequence[dict]): Configs of the training pipeline.
        test (Sequence[dict]): Configs of the test-time pipeline.

    Returns:
        List[dict]: Configs of a deterministic pipeline.
    """
    return [t for t in train if loads(t['type'])] + [t for t in test if not loads(t['type'])]


class TrainingData(Dataset):
    """The distinct images behind a training data set, which may repeat, concatenate or filter.

    Args:
        dataset (Dataset): The training data set, as its data loader holds it.
        pipeline (Sequence[dict]): Configs of the pipeline to see the images through.

    Attributes:
        positions (np.ndarray): int64, shape (len(dataset),): which of the distinct images each index shows.
    """

    def __init__(self, dataset: Dataset, pipeline: Sequence[Dict[str, Any]]) -> None:
        self.pipeline = Compose(pipeline)
        self._images: List[Tuple[BaseDataset, int]] = []
        first: Dict[Tuple[int, int], int] = {}
        self.positions = np.empty(len(dataset), dtype=np.int64)
        for index in range(len(dataset)):
            base, base_index = locate(dataset, index)
            key = (id(base), base_index)
            if key not in first:
                first[key] = len(self._images)
                self._images.append((base, base_index))
            self.positions[index] = first[key]

    def __len__(self) -> int:
        """Number of distinct images."""
        return len(self._images)

    def info(self, position: int) -> Dict[str, Any]:
        """What the data set knows about an image, as MMEngine's ``get_data_info``."""
        base, index = self._images[position]
        return base.get_data_info(index)

    @property
    def images(self) -> 'TrainingData':
        """The images themselves."""
        return self

    @cached_property
    def noisy(self) -> np.ndarray:
        """Images whose labels were made wrong on purpose, bool, shape (len(self),)."""
        noise = (self.info(position).get('noise') for position in range(len(self)))
        return np.fromiter(map(bool, noise), dtype=bool, count=len(self))

    @cached_property
    def image_ids(self) -> np.ndarray:
        """:meth:`image_id` of all images, shape (len(self),)."""
        return np.asarray([self.image_id(position) for position in range(len(self))])

    @cached_property
    def by_shape(self) -> np.ndarray:
        """All positions, int64, such that batches need seldom be split by their padded shape.

        Images of one shape lie next to each other, and shapes are in the order of their proportions: what is resized
        to one scale has the same shape then if it has the same proportions.
        """
        infos = map(self.info, range(len(self)))
        shapes = np.asarray([(info.get('height', 1), info.get('width', 1)) for info in infos]).reshape(-1, 2)
        return np.lexsort((shapes[:, 0], shapes[:, 1] / shapes[:, 0]))  # stable: positions ascend within a shape

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the images' names, sizes and annotations in order: another data set has another one.

        Contents of files are not read; their sizes are, where they lie on a local disk. The main process computes it;
        ask for it in all of them.
        """
        found = [self._fingerprint() if is_main_process() else None]
        broadcast_object_list(found)
        return found[0]

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for position in range(len(self)):
            info = self.info(position)
            facts = [info.get(key) for key in ('img_id', 'height', 'width', 'gt_label')]
            facts += [[i.get(key) for key in ('bbox', 'bbox_label', 'ignore_flag')] for i in info.get('instances', ())]
            path = info.get('img_path')
            if path is not None:
                facts += [Path(path).name, _file_size(path)]
            digest.update(json.dumps(facts, default=lambda value: np.asarray(value).tolist()).encode())
        return digest.hexdigest()[:16]

    @cached_property
    def labels(self) -> csr_matrix:
        """Which classes each image holds, bool, shape (len(self), C); crowd and ignored boxes don't count."""
        rows, columns = [], []
        for position in range(len(self)):
            info = self.info(position)
            if 'gt_label' in info:
                classes = np.unique(info['gt_label'])
            else:
                found = [i['bbox_label'] for i in info.get('instances', ()) if not i.get('ignore_flag')]
                classes = np.unique(np.asarray(found, dtype=np.int64))
            rows += [position] * len(classes)
            columns += classes.tolist()
        shape = (len(self), max(columns, default=-1) + 1)
        return csr_matrix((np.ones(len(rows), dtype=bool), (rows, columns)), shape=shape)

    @cached_property
    def object_counts(self) -> np.ndarray:
        """Objects of each image, crowd and ignored boxes left out, int64, shape (len(self),).

        Raises:
            MmacsError: If the data set is none of objects.
        """
        infos = [self.info(position) for position in range(len(self))]
        if not all('instances' in info for info in infos):
            raise MmacsError("normalisation 'stratified_rank' needs a data set with objects: take 'rank'")
        return np.asarray([sum(not i.get('ignore_flag') for i in info['instances']) for info in infos], dtype=np.int64)

    def key(self, sample: Any) -> Any:
        """What tells the image of a data sample (or of an info) apart: its file, or its place in its data set."""
        return sample.get('img_path') or sample.get('sample_idx')

    @cached_property
    def by_key(self) -> Dict[Any, int]:
        """Position of each image by :meth:`key`.

        Raises:
            MmacsError: If two images share a key.
        """
        found = {self.key(self.info(position)): position for position in range(len(self))}
        if None in found or len(found) != len(self):
            raise MmacsError(
                'images of this data set cannot be told apart while training, which harvest and unbiased need: '
                'they have no img_path, or share one'
            )
        return found

    def image_id(self, position: int) -> Any:
        """The annotation file's id of an image, or its file's path, or its index where it has neither."""
        info = self.info(position)
        return info.get('img_id', info.get('img_path', position))

    def positions_of(self, data_samples: Sequence[Any]) -> np.ndarray:
        """Positions of the images of data samples, int64, shape (B,)."""
        keys = [self.key(sample) for sample in data_samples]
        if not self.by_key.keys() >= set(keys):
            raise MmacsError("cannot tell the images of a batch: give the packing transform's meta_keys 'img_path'")
        return np.asarray([self.by_key[key] for key in keys], dtype=np.int64)

    def __getitem__(self, position: int) -> Dict[str, Any]:
        """One image with its data sample, as the pipeline packs them.

        Raises:
            MmacsError: If the image can't be read, or the pipeline drops it.
        """
        info = self.info(position)
        path = info.get('img_path', f'number {position}')
        try:
            data = self.pipeline(info)
        except (OSError, cv2.error, AssertionError) as error:  # MMCV asserts that it could decode the file
            raise MmacsError(f'cannot read image {path}: {error}') from error
        if data is None:
            raise MmacsError(f'the scoring pipeline drops image {path}; it must keep every training image')
        return data

    def check_pipeline(self, num_images: int = 8) -> None:
        """Require that the pipeline gives an image in one way, with its annotations; random states stay as they are.

        Args:
            num_images (int): How many images, the first ones, are loaded twice.

        Raises:
            MmacsError: If it does not, or an image can't be read.
        """
        with without_side_effects():
            for position in range(min(num_images, len(self))):
                first, second = (self[position] for _ in range(2))
                if not np.array_equal(first['inputs'], second['inputs']):
                    raise MmacsError(
                        'the scoring pipeline gives another image each time: give CoresetHook a pipeline without '
                        'random transforms'
                    )
                if 'bboxes' not in first['data_samples'].get('gt_instances', {'bboxes'}):
                    raise MmacsError('the scoring pipeline gives no boxes: add LoadAnnotations to it')


def _file_size(path: str) -> Optional[int]:
    """Bytes of a local file, None where there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return None
