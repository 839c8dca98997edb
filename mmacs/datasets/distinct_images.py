"""The images behind a training data set: each once, under a deterministic pipeline, with annotations."""

from bisect import bisect_right
from typing import Any, Dict, Iterator, List, Sequence, Tuple

import numpy as np
from mmengine.dataset import BaseDataset, Compose
from torch.utils.data import Dataset

from mmacs.adapters.mmengine.wrappers import below
from mmacs.adapters.transforms import loads
from mmacs.datasets.reading import read_image
from mmacs.teacher.side_effects import without_side_effects
from mmacs.utils.errors import MmacsError


def locate(dataset: Dataset) -> Tuple[List[BaseDataset], np.ndarray]:
    """Find the data sets below any wrappers, and the image of each index.

    Args:
        dataset (Dataset): A data set or a wrapper of MMEngine or MMDetection around one or several.

    Returns:
        Tuple[List[BaseDataset], np.ndarray]: The innermost data sets, each once, and the number of the image that each
        index shows, int64, shape (len(dataset),). Images are numbered through the innermost data sets, one after the
        other.

    Raises:
        MmacsError: If there is a wrapper that mmacs doesn't know.
    """
    bases: List[BaseDataset] = []
    starts: Dict[int, int] = {}  # by the data set's id

    def numbers(dataset: Dataset, indices: np.ndarray) -> np.ndarray:
        if isinstance(dataset, BaseDataset):
            if id(dataset) not in starts:
                starts[id(dataset)] = sum(map(len, bases))
                bases.append(dataset)
            return starts[id(dataset)] + indices
        parts = below(dataset, indices)
        if parts is None:
            raise MmacsError(f'cannot score through the data set wrapper {type(dataset).__name__}')
        found = np.empty_like(indices)
        for part, places, inner in parts:
            found[places] = numbers(part, inner)
        return found

    size = len(dataset)  # a wrapper that is lazy finds its images now
    return bases, numbers(dataset, np.arange(size))


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


class DistinctImages(Dataset):
    """The distinct images behind a training data set, which may repeat, concatenate or filter.

    They are in the order of their first index.

    Args:
        dataset (Dataset): The training data set, as its data loader holds it.
        pipeline (Sequence[dict]): Configs of the pipeline to see the images through.

    Attributes:
        bases (List[BaseDataset]): The innermost data sets.
        numbers (np.ndarray): The image's number in them, see :func:`locate`, int64, shape (len(self),).
        positions (np.ndarray): Which of the distinct images each index shows, int64, shape (len(dataset),).
    """

    def __init__(self, dataset: Dataset, pipeline: Sequence[Dict[str, Any]]) -> None:
        self.pipeline = Compose(pipeline)
        self.bases, shown = locate(dataset)
        numbers, first, inverse = np.unique(shown, return_index=True, return_inverse=True)
        order = np.argsort(first)
        self.numbers = numbers[order]
        self.positions = np.argsort(order)[inverse]
        self._starts = np.cumsum([0, *map(len, self.bases)]).tolist()

    def __len__(self) -> int:
        """Returns the number of distinct images."""
        return len(self.numbers)

    def info(self, position: int) -> Dict[str, Any]:
        """Returns what the data set knows about an image, as MMEngine's ``get_data_info``."""
        base, index = self._find(int(self.numbers[position]))
        return base.get_data_info(index)

    def image_id(self, position: int) -> Any:
        """Returns the annotation file's id of an image, or its file's path, or its position where it has neither."""
        info = self.info(position)
        return info.get('img_id', info.get('img_path', position))

    def infos(self) -> Iterator[Dict[str, Any]]:
        """The infos of all images in order, for reading alone: parts of them may be the data set's own."""
        for number in self.numbers.tolist():
            base, index = self._find(number)
            if is_plain(base) and not base.serialize_data:  # MMEngine would copy it in depth
                yield {**base.data_list[index], 'sample_idx': index}
            else:
                yield base.get_data_info(index)

    def _find(self, number: int) -> Tuple[BaseDataset, int]:
        which = bisect_right(self._starts, number) - 1
        return self.bases[which], number - self._starts[which]

    def __getitem__(self, position: int) -> Dict[str, Any]:
        """One image with its data sample, as the pipeline packs them.

        Raises:
            MmacsError: If the image can't be read, or the pipeline drops it.
        """
        base, index = self._find(int(self.numbers[position]))
        data = read_image(base, index, self.pipeline)
        if data is None:
            path = self.info(position).get('img_path', f'number {position}')
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


def is_plain(base: BaseDataset) -> bool:
    """Returns whether a data set's infos are those that it stores, not changed by a ``get_data_info`` of its own."""
    return getattr(base.get_data_info, '__func__', None) is BaseDataset.get_data_info
