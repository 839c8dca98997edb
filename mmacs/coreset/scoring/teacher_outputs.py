"""What is kept of the teacher's outputs in one run: taken from disk if it is there, else computed and written."""

import os
from typing import Any, Optional, Sequence

import numpy as np
from torch import nn

from mmacs.coreset.scoring.scorers import Scorer
from mmacs.coreset.scoring.scoring_pass import ReadTeacherOutputs, ScoringPass
from mmacs.coreset.scoring.teacher_cache import CacheWriter, cache_key, open_cache
from mmacs.utils.libraries import library_versions
from mmacs.version import __version__


class TeacherOutputs:
    """Knows where the teacher's outputs lie; the teacher itself is in memory only until they are there.

    Args:
        folder (os.PathLike): Where caches lie.
        teacher (nn.Module): The full-precision model, in eval mode; :meth:`release` lets go of it.
        scorer (Scorer): What is kept of it.
        columns (Sequence[str]): The columns that are scored; the teacher is needed for those in
            ``scorer.teacher_columns``.
        **parts: What else the outputs depend on, with a ``repr`` that tells it apart: weights, images, pipeline.

    Attributes:
        read (Callable): Reads the outputs of positions, once they are at hand; None before.
    """

    def __init__(
        self,
        folder: os.PathLike,
        teacher: nn.Module,
        scorer: Scorer,
        columns: Sequence[str],
        **parts: Any,
    ) -> None:
        self._folder = folder
        self._scorer = scorer
        self._columns = sorted(scorer.teacher_columns & set(columns))
        self._parts = {name: repr(part) for name, part in parts.items()}
        self._versions = {'mmacs': __version__, **library_versions(teacher)}
        self._teacher: Optional[nn.Module] = teacher
        self._key = ''
        self.read: Optional[ReadTeacherOutputs] = None

    def model(self) -> nn.Module:
        """Returns the teacher; it is there until :meth:`release`."""
        assert self._teacher is not None, 'the outputs are there, so that nobody needs the teacher'
        return self._teacher

    def release(self) -> None:
        """Lets go of the teacher, whose outputs are at hand."""
        if self.read is not None:
            self._teacher = None

    def find(self, scoring: ScoringPass) -> None:
        """Looks for the outputs on disk, unless they are at hand. Call it in all processes."""
        key = self._key_of(scoring)
        if key != self._key or self.read is None:
            cache = open_cache(self._folder, key, len(scoring.data))
            self._key, self.read = key, cache and cache.rows

    def fill(self, scoring: ScoringPass) -> ReadTeacherOutputs:
        """Returns what reads the outputs; if they were not found the teacher runs. Call it in all processes."""
        if self.read is None:
            images = len(scoring.data)
            with CacheWriter(self._folder, self._key, images) as writer:
                everything = np.arange(images)
                scoring.teacher_outputs(self._scorer, self.model(), self._columns, everything, writer.write)
                self.read = writer.finish().rows
        return self.read

    def _key_of(self, scoring: ScoringPass) -> str:
        return cache_key(
            **self._parts,
            scorer=[type(self._scorer).__name__, repr(sorted(vars(self._scorer).items())), self._columns],
            proxy=[scoring.proxy.resolution, scoring.proxy.precision],
            versions=self._versions,
        )
