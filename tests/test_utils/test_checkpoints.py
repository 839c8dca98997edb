from unittest.mock import Mock

import pytest
from mmengine.fileio import get_file_backend, put
from mmengine.hooks import CheckpointHook

import mmacs.registry  # noqa: F401
from mmacs.utils.checkpoints import AtomicLocalBackend, latest_checkpoint
from mmacs.utils.errors import MmacsError


def note(work_dir):
    """Have MMEngine's hook write which checkpoint is the last."""
    hook = CheckpointHook()
    hook.before_train(Mock(work_dir=str(work_dir)))
    hook._save_checkpoint_with_step(Mock(work_dir=str(work_dir)), 2, {})


def test_mmengine_writes_whole_files_or_none(tmp_path, monkeypatch):
    path = tmp_path / 'epoch_1.pth'
    put(b'old', str(path))
    assert isinstance(get_file_backend(str(path)), AtomicLocalBackend)

    def fail(*args):
        raise OSError(28, 'No space left on device')

    (tmp_path / 'last_checkpoint').write_text('epoch_1.pth')
    monkeypatch.setattr('os.replace', fail)
    with pytest.raises(MmacsError, match='cannot write .*epoch_1.pth .No space left.*3 bytes needed.*--work-dir'):
        put(b'new', str(path))
    with pytest.raises(MmacsError, match='cannot write .*last_checkpoint .No space left'):
        note(tmp_path)
    assert (tmp_path / 'last_checkpoint').read_text() == 'epoch_1.pth'
    (tmp_path / 'last_checkpoint').unlink()
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


def test_the_note_of_the_last_checkpoint_is_written_and_one_that_is_no_text_is_passed_over(tmp_path):
    note(tmp_path)
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_2.pth')
    (tmp_path / 'last_checkpoint').write_bytes(b'\xff\xfe\x00')
    (tmp_path / 'epoch_1.pth').touch()
    assert latest_checkpoint(tmp_path) == str(tmp_path / 'epoch_1.pth')
    (tmp_path / 'last_checkpoint').write_text('/')  # a folder
    assert latest_checkpoint(tmp_path) == str(tmp_path / 'epoch_1.pth')
