"""The embedded classification set as an MMPreTrain data set."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
from mmpretrain.datasets import BaseDataset

from mmacs.datasets.generated import generate_once, parse_spec
from mmacs.datasets.shape_tiles import CLASSES, SPLITS, VERSION, ClassificationSpec, write_classification
from mmacs.registry import DATASETS
from mmacs.utils.errors import unknown_name


@DATASETS.register_module()
class EmbeddedClassification(BaseDataset):
    """Procedurally drawn 32 x 32 tiles of ten shapes, written to ``data_root`` on first use.

    As with MMPreTrain's CIFAR-10, records carry the pixels themselves, so pipelines need no loading transform.

    Args:
        data_root (str): The folder of the data set.
        split (str): ``'train'`` or ``'test'``.
        spec (dict, optional): Fields of :class:`~mmacs.datasets.shape_tiles.ClassificationSpec` that differ from
            their defaults. Every data set with the same ``data_root`` needs the same.
        **kwargs: As in :class:`mmpretrain.datasets.BaseDataset`.

    Raises:
        MmacsError: If ``split`` or ``spec`` is not understood, or ``data_root`` holds something else, or is damaged.
    """

    METAINFO = {'classes': CLASSES}

    def __init__(
        self,
        data_root: str = 'data/embedded_classification',
        split: str = 'train',
        spec: Optional[Dict[str, Any]] = None,
        **kwargs: Any,
    ) -> None:
        if split not in SPLITS:
            raise unknown_name('split', split, SPLITS)
        self.split = split
        self.spec = parse_spec(ClassificationSpec, spec)
        super().__init__(ann_file='', data_root=data_root, **kwargs)

    def load_data_list(self) -> List[dict]:
        """Draw the data set unless it exists, then load one split.

        Returns:
            List[dict]: One record per tile: ``img`` (32, 32, 3) uint8 and ``gt_label`` (int).
        """
        recipe = {'generator': 'embedded_classification', 'version': VERSION, **asdict(self.spec)}
        generate_once(Path(self.data_root), recipe, lambda folder: write_classification(folder, self.spec))
        with np.load(Path(self.data_root) / f'{self.split}.npz') as arrays:
            return [{'img': img, 'gt_label': int(label)} for img, label in zip(arrays['img'], arrays['gt_label'])]

    def extra_repr(self) -> List[str]:
        """Returns what ``repr`` adds to the base class's lines."""
        return [f'Root of the data set: \t{self.data_root}', f'Split: \t{self.split}']
