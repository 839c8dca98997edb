"""The teacher's outputs of some of the images on disk, computed as rounds need them."""

import json
from pathlib import Path
from typing import Callable, Dict, List, Tuple

import numpy as np
import torch
from torch import Tensor

from mmacs.coreset.scoring.teacher_cache import PARTS, CacheWriter, TeacherCache, open_cache
from mmacs.coreset.selection.selectors import digest
from mmacs.utils.distributed import on_main

_POSITIONS = 'mmacs_position'

Write = Callable[[np.ndarray, Dict[str, Tensor]], None]


class TeacherParts:
    """Parts of a cache: each is a cache of its own, see :mod:`.teacher_cache`, of images that were missing at a time.

    They lie in ``<folder>/<key>.parts``, each named by its images, whose positions it holds besides their rows. So
    several runs may add parts at once, and a resumed run finds what it had. Make one in all processes.

    Args:
        folder (os.PathLike): Where caches lie, on a disk that all processes share.
        key (str): From :func:`.cache_key`.
        num_images (int): Images in all.
    """

    def __init__(self, folder: Path, key: str, num_images: int) -> None:
        self._folder = Path(folder) / f'{key}{PARTS}'
        self._part = np.full(num_images, -1)  # which part has each image's row, -1 for none
        self._row = np.zeros(num_images, dtype=np.int64)
        self._parts: List[TeacherCache] = []
        for name, rows in on_main(self._found):
            part = open_cache(self._folder, name, rows)
            if part is not None:
                self._take(name, part, rows)

    @property
    def share(self) -> float:
        """Share of the images that have rows, in [0, 1]."""
        return float((self._part >= 0).mean())

    def rows(self, positions: np.ndarray) -> Dict[str, Tensor]:
        """Read images' rows.

        Args:
            positions (np.ndarray): Positions of B images that have rows, at least one, in any order.

        Returns:
            Dict[str, Tensor]: Named tensors on the CPU, batch first, as they were written.
        """
        positions = np.asarray(positions, dtype=np.int64)
        found: Dict[str, Tensor] = {}
        for number in np.unique(self._part[positions]):
            places = np.flatnonzero(self._part[positions] == number)
            rows = self._parts[number].rows(self._row[positions[places]])
            del rows[_POSITIONS]
            for name, values in rows.items():
                whole = found.setdefault(name, values.new_empty(len(positions), *values.shape[1:]))
                whole[torch.from_numpy(places)] = values
        return found

    def add(self, positions: np.ndarray, compute: Callable[[np.ndarray, Write], None]) -> None:
        """Add what is missing of some images. Call it in all processes.

        Args:
            positions (np.ndarray): The images, int64, ascending.
            compute (Callable): Hands this process's share of the rows of positions to a function of its own.
        """
        missing = positions[self._part[positions] < 0]
        if not len(missing):
            return
        name, place = digest(missing), np.full(len(self._part), -1)
        place[missing] = np.arange(len(missing))
        with CacheWriter(self._folder, name, len(missing)) as writer:
            compute(
                missing,
                lambda batch, rows: writer.write(place[batch], {**rows, _POSITIONS: torch.from_numpy(batch)}),
            )
            self._take(name, writer.finish(), len(missing))

    def _take(self, name: str, part: TeacherCache, rows: int) -> None:
        """Use a part, unless the positions in it are not those that it is named by."""
        positions = part.rows(np.arange(rows), [_POSITIONS]).get(_POSITIONS, torch.empty(0)).numpy()
        if digest(positions) == name and positions.min() >= 0 and positions.max() < len(self._part):
            self._part[positions], self._row[positions] = len(self._parts), np.arange(rows)
            self._parts.append(part)

    def _found(self) -> List[Tuple[str, int]]:
        """Names of the parts that seem to be there, in an order of their own, and how many rows they say to have."""
        found = []
        for path in sorted(self._folder.glob('[0-9a-f]*/cache.json')):
            try:
                rows = json.loads(path.read_text())['num_images']
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                continue  # a damaged part is as good as none: what it had is computed anew
            if isinstance(rows, int) and 0 < rows <= len(self._part):
                found.append((path.parent.name, rows))
        return found
