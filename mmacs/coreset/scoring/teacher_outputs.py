"""What is kept of the teacher's outputs in one run: taken from disk if it is there, else computed and written."""

import os
from typing import Any, Optional, Sequence

import numpy as np
from torch import nn

from mmacs.coreset.scoring.scorers import Scorer
from mmacs.coreset.scoring.scoring_pass import ReadTeacherOutputs, ScoringPass
from mmacs.coreset.scoring.teacher_cache import CacheWriter, cache_key, open_cache
from mmacs.coreset.scoring.teacher_parts import TeacherParts, Write
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
        self._depends_on = {name: repr(part) for name, part in parts.items()}
        self._versions = {'mmacs': __version__, **library_versions(teacher)}
        self._teacher: Optional[nn.Module] = teacher
        self._key = ''
        self._parts: Optional[TeacherParts] = None
        self._read_all: Optional[ReadTeacherOutputs] = None

    def model(self) -> nn.Module:
        """Returns the teacher; it is there until :meth:`release`."""
        assert self._teacher is not None, 'the outputs are there, so that nobody needs the teacher'
        return self._teacher

    @property
    def read(self) -> Optional[ReadTeacherOutputs]:
        """Reads the outputs of positions, once those of all images are at hand; None before."""
        return self._parts.rows if self._parts is not None and self._parts.share == 1 else self._read_all

    @property
    def share(self) -> float:
        """Share of the images whose outputs are at hand, in [0, 1]."""
        return 1.0 if self.read is not None else 0.0 if self._parts is None else self._parts.share

    def release(self) -> None:
        """Lets go of the teacher, once the outputs of all images are at hand."""
        if self.read is not None:
            self._teacher = None

    def find(self, scoring: ScoringPass) -> None:
        """Looks for the outputs on disk, unless it has. Call it in all processes."""
        key, images = self._key_of(scoring), len(scoring.data)
        if key != self._key:
            cache = open_cache(self._folder, key, images)
            self._key, self._read_all = key, cache and cache.rows
            self._parts = TeacherParts(self._folder, key, images) if cache is None else None

    def fill(self, scoring: ScoringPass, positions: np.ndarray) -> ReadTeacherOutputs:
        """Returns what reads the outputs of some images; of those that were not found the teacher runs.

        Call it in all processes, after :meth:`find`.

        Args:
            scoring (ScoringPass): How images are brought to the teacher.
            positions (np.ndarray): The images, int64, ascending.
        """

        def compute(missing: np.ndarray, write: Write) -> None:
            scoring.teacher_outputs(self._scorer, self.model(), self._columns, missing, write)

        if self.read is None and len(positions) == len(scoring.data):
            with CacheWriter(self._folder, self._key, len(positions)) as writer:
                compute(positions, writer.write)
                self._read_all = writer.finish().rows
        if self.read is None:
            self._parts.add(positions, compute)
        return self.read or self._parts.rows

    def _key_of(self, scoring: ScoringPass) -> str:
        return cache_key(
            **self._depends_on,
            scorer=[type(self._scorer).__name__, repr(sorted(vars(self._scorer).items())), self._columns],
            proxy=[scoring.proxy.resolution, scoring.proxy.precision],
            versions=self._versions,
        )
