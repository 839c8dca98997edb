import pytest
from mmengine.fileio import get_file_backend, put

import mmacs.registry  # noqa: F401
from mmacs.utils.checkpoints import AtomicLocalBackend, latest_checkpoint


def test_mmengine_writes_whole_files_or_none(tmp_path, monkeypatch):
    path = tmp_path / 'epoch_1.pth'
    put(b'old', str(path))
    assert isinstance(get_file_backend(str(path)), AtomicLocalBackend)

    def fail(*args):
        raise OSError('killed')

    monkeypatch.setattr('os.replace', fail)
    with pytest.raises(OSError, match='killed'):
        put(b'new', str(path))
    assert path.read_bytes() == b'old'
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ('files', 'note', 'found'),
    [
        ((), None, None),
        (('epoch_1.pth', 'epoch_2.pth'), 'epoch_1.pth', 'epoch_1.pth'),
        (('epoch_9.pth', 'epoch_10.pth'), '', 'epoch_10.pth'),  # killed while the note was written
        (('epoch_2.pth', 'teacher.pth'), 'epoch_1.pth', 'epoch_2.pth'),  # killed after epoch_1.pth was removed
        (('teacher.pth',), 'epoch_1.pth', None),
        (('iter_20.pth', 'iter_5.pth'), None, 'iter_20.pth'),
    ],
)
def test_the_latest_checkpoint_after_a_kill(tmp_path, files, note, found):
    for name in files:
        (tmp_path / name).touch()
    if note is not None:
        (tmp_path / 'last_checkpoint').write_text(str(tmp_path / note) if note else '')
    assert latest_checkpoint(tmp_path) == (None if found is None else str(tmp_path / found))
