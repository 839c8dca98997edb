"""Each file that a run writes is said to be too large for its disk in one sentence, and the one before stays."""

import resource
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from mmengine.fileio import put

from mmacs.coreset import annotations, image_contents
from mmacs.coreset.round_record import remove_rounds, write_round, write_summary
from mmacs.coreset.scoring.teacher_cache import CacheWriter
from mmacs.teacher.model import save_teacher
from mmacs.utils.errors import MmacsError

from .test_engine import engine, hold


@contextmanager
def files_of_at_most(size):
    """Has the system refuse larger files, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_cache(path):
    with CacheWriter(path.parent, path.name, 50) as writer:
        writer.write(range(50), {'probs': torch.rand(50, 4)})
        writer.finish()


def write_a_round(path):
    own = engine()
    hold(own)
    own._undrawn = {'seconds': 1.0}
    write_round(path, own, own.begin(0), epoch=0, iteration=0)


KNOWN = image_contents._Known(np.zeros((50, 4), np.int64), np.zeros((50, 16), np.uint8))


@pytest.mark.parametrize(
    ('name', 'write'),
    [
        ('teacher.pth', lambda path: save_teacher(torch.nn.Linear(20, 20), path)),
        ('epoch_1.pth', lambda path: put(bytes(500), str(path))),
        ('summary.json', lambda path: write_summary(path, dict.fromkeys(map(str, range(50)), 0.5))),
        ('a.npz', lambda path: annotations._save(path, {'paths': np.arange(100)})),
        ('a.contents.npz', lambda path: image_contents._save(path, KNOWN)),
        ('round_000.npz', write_a_round),
        ('0123456789abcdef', write_cache),
    ],
)
def test_what_a_run_writes_is_whole_or_the_one_before(tmp_path, name, write):
    path = tmp_path / name
    write(path)
    before = {file: file.read_bytes() for file in tmp_path.rglob('*') if file.is_file()}
    if path.is_dir():  # a cache is made anew where it is unsound
        (path / 'cache.json').write_text('')
    with files_of_at_most(200), pytest.raises(MmacsError, match=f'^cannot write {path} .File too large; .* needed'):
        write(path)
    after = {file: file.read_bytes() for file in tmp_path.rglob('*') if file.is_file()}
    assert {file.name: len(content) for file, content in after.items() if file.name != 'cache.json'} == {
        file.name: len(content) for file, content in before.items() if file.name != 'cache.json'
    }
    assert path.is_dir() or after == before


def test_a_file_in_the_place_of_the_folder_of_rounds(tmp_path):
    (tmp_path / 'coreset').write_text('')
    with pytest.raises(MmacsError, match='something else is in its place: remove that or choose another --work-dir'):
        remove_rounds(tmp_path / 'coreset', after=-1)
