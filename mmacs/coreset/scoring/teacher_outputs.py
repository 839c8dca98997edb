"""The teacher's outputs of one run: taken from disk if they are there, else computed and kept."""

import os
from typing import Any, Optional, Sequence

import numpy as np
from torch import nn

from mmacs.coreset.scoring.scorers import Scorer
from mmacs.coreset.scoring.scoring_pass import ReadTeacherOutputs, ScoringPass
from mmacs.coreset.scoring.teacher_cache import CacheWriter, TeacherCache, cache_key, open_cache
from mmacs.version import __version__


class TeacherOutputStore:
    """Knows where the teacher's outputs lie, and whether they do.

    Args:
        folder (os.PathLike): Where caches lie.
        scoring (ScoringPass): How images are brought to the teacher; how exact may change until :meth:`find`.
        scorer (Scorer): What is kept of the teacher.
        columns (Sequence[str]): The columns that are scored; the teacher is needed for those in
            ``scorer.teacher_columns``.
        **parts: What else the teacher's outputs depend on, with a ``repr`` that tells it apart: weights, images,
            pipeline.
    """

    def __init__(
        self, folder: os.PathLike, scoring: ScoringPass, scorer: Scorer, columns: Sequence[str], **parts: Any
    ) -> None:
        self._folder = folder
        self._scoring = scoring
        self._scorer = scorer
        self._columns = sorted(scorer.teacher_columns & set(columns))
        self._parts = {name: repr(part) for name, part in parts.items()}
        self._cache: Optional[TeacherCache] = None

    @property
    def teacher_outputs(self) -> Optional[ReadTeacherOutputs]:
        """Reads the teacher's outputs of positions, once they are at hand."""
        return self._cache and self._cache.rows

    def find(self) -> None:
        """Look for the teacher's outputs on disk, as exact as scoring is now. Call it in all processes."""
        self._cache = open_cache(self._folder, self._key(), len(self._scoring.view))

    def fill(self, teacher: nn.Module) -> ReadTeacherOutputs:
        """Returns what reads them; if they were not found the teacher runs. Call it in all processes."""
        if self._cache is None:
            images = len(self._scoring.view)
            with CacheWriter(self._folder, self._key(), images) as writer:
                self._scoring.teacher_outputs(self._scorer, teacher, self._columns, np.arange(images), writer.write)
                self._cache = writer.finish()
        return self._cache.rows

    def _key(self) -> str:
        proxy = self._scoring.proxy
        return cache_key(
            **self._parts,
            scorer=[type(self._scorer).__name__, repr(sorted(vars(self._scorer).items())), self._columns],
            proxy=[proxy.resolution, proxy.precision],
            version=__version__,
        )
