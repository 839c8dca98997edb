"""Data sets of MMEngine, MMDetection and MMPreTrain, read with care.

What is wrong with annotations and images is said in one sentence that names the file; what is safe is put right, in
memory, and said; what filters drop is counted. The data sets are the libraries' own, or derive from them: their methods
are wrapped where all of them, and MMDetection's metrics, come through.
"""

import logging
from contextlib import suppress
from functools import wraps
from importlib.util import find_spec
from typing import Any, Callable, Dict, Optional, Tuple

import torch
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from mmacs.datasets.coco_file import read_coco
from mmacs.datasets.image_files import through
from mmacs.datasets.loading import Loading, say

_OTHER_SIZES = 'mmacs_other_sizes'  # attribute of a data set: a byte per image, shared with its workers


def read_with_care() -> None:
    """Have the libraries' data sets, and MMDetection's reader of COCO files, do as this module says."""
    _wrap(BaseDataset, 'full_init', _full_init)
    _wrap(BaseDataset, 'prepare_data', _prepare_data)
    if find_spec('mmdet'):
        from mmdet.datasets import BaseDetDataset
        from mmdet.datasets.api_wrappers import COCO

        _wrap(BaseDetDataset, 'full_init', _full_init)
        _wrap(COCO, '__init__', _open_coco)


def _wrap(owner: type, name: str, wrapper: Callable[[Callable], Callable]) -> None:
    setattr(owner, name, wrapper(vars(owner)[name]))


def _open_coco(original: Callable) -> Callable:
    """MMDetection's COCO files, which data sets and metrics read alike, are checked and completed."""

    @wraps(original)
    def opened(self: Any, annotation_file: Optional[str] = None) -> None:
        if annotation_file is None or type(self).createIndex is not _common_index(type(self)):
            original(self, annotation_file)
            return
        original(self, None)
        self.annotation_file = annotation_file
        self.dataset, remarks = read_coco(annotation_file)
        if remarks:
            say(f'{annotation_file}: {"; ".join(remarks)}.')
        self.createIndex()
        self.img_ann_map, self.cat_img_map = self.imgToAnns, self.catToImgs

    return opened


def _common_index(kind: type) -> Callable:
    """Returns how pycocotools indexes a file of objects; files of panoptic segments have an index of their own."""
    return next(vars(one)['createIndex'] for one in reversed(kind.__mro__) if 'createIndex' in vars(one))


def _full_init(original: Callable) -> Callable:
    """Annotations are loaded with each step watched."""

    @wraps(original)
    def full_init(self: BaseDataset) -> None:
        if self._fully_initialized or Loading.watches(self):  # a subclass calls the method of its base
            original(self)
            return
        with Loading(self):
            original(self)
        if len(self):
            setattr(self, _OTHER_SIZES, _shared_zeros(len(self)))

    return full_init


def _shared_zeros(count: int) -> torch.Tensor:
    """Returns bytes that workers write to as well, where there is shared memory; without, no worker can load either."""
    zeros = torch.zeros(count, dtype=torch.uint8)
    with suppress(RuntimeError):
        zeros.share_memory_()
    return zeros


def _prepare_data(original: Callable) -> Callable:
    """An image goes through the pipeline by :func:`read_image`."""

    @wraps(original)
    def prepare_data(self: BaseDataset, idx: int) -> Any:
        return read_image(self, idx, self.pipeline)

    return prepare_data


def read_image(dataset: BaseDataset, index: int, pipeline: Callable[[Dict[str, Any]], Any]) -> Any:
    """Bring an image of a data set through a pipeline; compare its size with that in the annotations.

    The first image whose size differs is told, in whatever process that is, and all are counted, see
    :func:`count_other_sizes`.

    Args:
        dataset (BaseDataset): The data set.
        index (int): Index of the image.
        pipeline (Callable): The transforms.

    Returns:
        Any: What the pipeline gives.

    Raises:
        MmacsError: If the image's file can't be read.
    """
    info = dataset.get_data_info(index)
    path, listed = info.get('img_path'), (info.get('width'), info.get('height'))
    data = through(pipeline, info)
    actual = _size(data)
    if actual is not None and None not in listed and actual != listed:
        found = getattr(dataset, _OTHER_SIZES, torch.zeros(0))
        if index < len(found):
            first = not found.any()
            found[index] = 1
            if first:
                print_log(_sentence(dataset, path, listed, actual), 'current', logging.WARNING)
    return data


def _size(data: Any) -> Optional[Tuple[int, int]]:
    """Returns width and height with which an image was read, None where the pipeline's result doesn't tell."""
    if not isinstance(data, dict):
        return None
    shape = data.get('ori_shape')
    sample = data.get('data_samples')
    if shape is None and hasattr(sample, 'metainfo'):
        shape = sample.metainfo.get('ori_shape')
    return None if shape is None else (shape[1], shape[0])


def _sentence(dataset: BaseDataset, path: str, listed: Tuple[float, float], actual: Tuple[int, int]) -> str:
    turned = (
        ' (turned, as its EXIF data says? LoadImageFromFile(color_type="color_ignore_orientation") leaves it as it is)'
        if listed == actual[::-1]
        else ''
    )
    return (
        f'{path} is {actual[0]} x {actual[1]} pixels as it is read, and {listed[0]} x {listed[1]} in '
        f'{dataset.ann_file}: boxes may not fit{turned}. Others are counted, and told after the first epoch.'
    )


def count_other_sizes(dataset: BaseDataset) -> int:
    """Returns how many images, of those read so far, had another size than their annotations say."""
    return int(getattr(dataset, _OTHER_SIZES, torch.zeros(0)).sum())
