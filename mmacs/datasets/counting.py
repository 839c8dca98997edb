"""How many images a config's data sets have, as far as that can be had at once: nothing is built, no image is read."""

import json
import os
from itertools import islice
from pathlib import Path
from typing import Any, Mapping, Optional

from mmacs.datasets.data_paths import data_sets

_MAX_BYTES = 20_000_000  # of an annotation file that is read for this


def count_images(loader: Any, most: int) -> Optional[int]:
    """Returns the number of images in a data loader's annotation files, or folders where it names no such files.

    What filters drop is counted too.

    Args:
        loader (dict): Config of the data loader.
        most (int): Where to stop counting files in folders.

    Returns:
        int: The number; None where files are missing, large, or of a form that is not known here.
    """
    counts = [_count(found, most) for found in data_sets(loader)]
    return sum(counts) if counts and None not in counts else None


def _count(dataset: Mapping[str, Any], most: int) -> Optional[int]:
    root, prefix = Path(dataset['data_root']), dataset.get('data_prefix') or ''
    annotations = dataset.get('ann_file')
    try:
        if annotations:
            return _named_in(root / annotations)
        if isinstance(prefix, Mapping):
            prefix = prefix.get('img_path', '')
        files = (name for _, _, names in os.walk(root / prefix) for name in names)
        return sum(1 for _ in islice(files, most)) or None
    except (OSError, ValueError, TypeError):  # whatever is wrong is said where the data is read
        return None


def _named_in(file: Path) -> Optional[int]:
    if file.stat().st_size > _MAX_BYTES:
        return None
    if file.suffix == '.txt':
        return sum(1 for line in file.read_text().splitlines() if line.strip())
    content = json.loads(file.read_bytes()) if file.suffix == '.json' else {}
    images = content.get('images', content.get('data_list')) if isinstance(content, dict) else None
    return len(images) if isinstance(images, list) else None
