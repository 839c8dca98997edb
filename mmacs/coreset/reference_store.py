"""The teacher's reference of one run: taken from disk if it is there, else computed and kept."""

import os
from typing import Any, Optional, Sequence

import numpy as np
from torch import nn

from mmacs.coreset.reference_cache import CacheWriter, ReferenceCache, cache_key, open_cache
from mmacs.coreset.scorers import Scorer
from mmacs.coreset.scoring import Reference, ScoringPass
from mmacs.version import __version__


class ReferenceStore:
    """Knows where the reference lies, and whether it does.

    Args:
        folder (os.PathLike): Where caches lie.
        scoring (ScoringPass): How images are brought to the teacher; its fidelity may change until :meth:`find`.
        scorer (Scorer): What is kept of the teacher.
        columns (Sequence[str]): The columns that are scored; the reference is for those in ``scorer.teacher_columns``.
        **parts: What else the reference depends on, with a ``repr`` that tells it apart: weights, images, pipeline.
    """

    def __init__(
        self, folder: os.PathLike, scoring: ScoringPass, scorer: Scorer, columns: Sequence[str], **parts: Any
    ) -> None:
        self._folder = folder
        self._scoring = scoring
        self._scorer = scorer
        self._columns = sorted(scorer.teacher_columns & set(columns))
        self._parts = {name: repr(part) for name, part in parts.items()}
        self._cache: Optional[ReferenceCache] = None

    @property
    def reference(self) -> Optional[Reference]:
        """What gives the reference of positions, once it is at hand."""
        return self._cache and self._cache.rows

    def find(self) -> None:
        """Look for the reference on disk, at the present fidelity. Call it in all processes."""
        self._cache = open_cache(self._folder, self._key(), len(self._scoring.view))

    def fill(self, teacher: nn.Module) -> Reference:
        """Give the reference; if it was not found the teacher runs on all images. Call it in all processes."""
        if self._cache is None:
            images = len(self._scoring.view)
            with CacheWriter(self._folder, self._key(), images) as writer:
                self._scoring.references(self._scorer, teacher, self._columns, np.arange(images), writer.write)
                self._cache = writer.finish()
        return self._cache.rows

    def _key(self) -> str:
        fidelity = self._scoring.fidelity
        return cache_key(
            **self._parts,
            scorer=[type(self._scorer).__name__, repr(sorted(vars(self._scorer).items())), self._columns],
            fidelity=[fidelity.resolution, fidelity.precision],
            version=__version__,
        )
