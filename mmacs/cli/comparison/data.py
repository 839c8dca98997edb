"""The data of a comparison, known by its contents."""

import hashlib
import os
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from mmacs.cli.runs import check_loader
from mmacs.coreset.annotations import read_annotations
from mmacs.datasets.data_paths import check_data
from mmacs.datasets.distinct_images import DistinctImages


def read_data(cfg: Config) -> str:
    """Read each image's file once, so that the first run is not alone to pay for a cold file cache.

    Returns:
        str: Hash of the contents of the training and validation data, so that runs on other data are told apart. It
        does not depend on where the files lie.

    Raises:
        MmacsError: If data is missing, or a data loader is none.
    """
    loaders = [name for name in ('train_dataloader', 'val_dataloader') if cfg.get(name)]
    for name in loaders:
        check_loader(name, cfg[name])
    check_data(cfg, loaders)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    digest = hashlib.sha256()
    for name in loaders:
        arrays = read_annotations(DistinctImages(DATASETS.build(cfg[name].dataset), []))
        digest.update(str(arrays['fingerprint']).encode() + arrays['others'].tobytes())
        for path in map(Path, map(os.fsdecode, arrays['paths'].tolist())):
            if path.is_file():
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
