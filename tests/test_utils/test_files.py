import os
import time

import pytest

from mmacs.utils.errors import MmacsError
from mmacs.utils.files import atomic_path, misspelt, remove_leftovers, write_whole, writing


def fails_with(number):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ('number', 'message'),
    [
        (28, r'No space left on device; 2\.0 MB needed; \d.* free\): free some space or set cache_dir'),
        (122, r'Disk quota exceeded; 2\.0 MB needed; .* free\): free some space'),
        (27, r'File too large; 2\.0 MB needed\): raise the limit on the size of files \(ulimit -f\) or set cache_dir'),
        (30, r'Read-only file system\): make it writable or set cache_dir'),
        (13, r'Permission denied\): make it writable'),
        (5, r'Input/output error\): set cache_dir'),
    ],
)
@pytest.mark.parametrize('when', ['pathlib.Path.write_bytes', 'os.replace'])
def test_a_file_is_written_whole_or_left_as_it_was(tmp_path, monkeypatch, number, message, when):
    path = tmp_path / 'new' / 'file.npz'
    write_whole(path, b'old')
    with monkeypatch.context() as patch:
        patch.setattr(when, fails_with(number))
        with pytest.raises(MmacsError, match=f'^cannot write {path} \\({message}'):
            write_whole(path, bytes(2_000_000), elsewhere='set cache_dir')
    assert path.read_bytes() == b'old' and os.listdir(path.parent) == ['file.npz']


def test_a_file_that_others_write_is_whole_too(tmp_path):
    path = tmp_path / 'file.svg'
    with atomic_path(path) as temporary:
        temporary.write_text('old')
        assert temporary.suffix == '.svg' and not path.exists()
    with (
        pytest.raises(MmacsError, match='cannot write .*No space left'),
        atomic_path(path),
        open('/dev/full', 'w') as f,
    ):
        f.write('new')
    with pytest.raises(KeyError), atomic_path(path) as temporary:  # whatever is no business of files stays what it is
        raise KeyError
    assert path.read_text() == 'old' and os.listdir(tmp_path) == ['file.svg']


@pytest.mark.parametrize('there', ['file', 'folder'])
def test_something_in_the_way_is_named(tmp_path, there):
    (tmp_path / 'file').touch()
    (tmp_path / 'folder' / 'inner').mkdir(parents=True)
    path = tmp_path / 'file' / 'a.json' if there == 'file' else tmp_path / 'folder'
    with pytest.raises(MmacsError, match='cannot write .*something else is in its place'):
        write_whole(path, b'1')


def test_only_what_killed_runs_left_is_removed(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / 'epoch_1.pth') as temporary:
        name = temporary.name
        raise KeyboardInterrupt
    old = ('.epoch_1.4711.pth', '.round_003.12.npz', '.last_checkpoint.99', name, f'.{"0a" * 16}.12.npz')
    kept = (
        'epoch_1.pth',
        '.gitignore',
        '.config.json',
        '.lock',
        'a.12.pth',
        '.a.partial',
        '.ssh.d',
        '.v1.2.tar',
        '.backup.20261127',
    )
    for file in (*old, *kept):
        (tmp_path / file).touch()
    (tmp_path / '.folder.12.pth').mkdir()
    remove_leftovers(tmp_path, older_than=60)
    assert len(os.listdir(tmp_path)) == len(old) + len(kept) + 1
    os.utime(tmp_path / name, (time.time() - 61,) * 2)
    remove_leftovers(tmp_path, older_than=60)
    assert not (tmp_path / name).exists()
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, '.folder.12.pth'])
    remove_leftovers(tmp_path / 'none')


def test_errors_that_have_no_words_of_their_own():
    with pytest.raises(MmacsError, match=r'cannot write a \(odd\): choose another folder'), writing('a'):
        raise OSError('odd')


@pytest.mark.parametrize(
    ('given', 'near'),
    [
        ('configs/retinanet/coco.py', 'configs/retinanet/coco.py'),
        ('confgs/retinnet/cocoo.py', 'configs/retinanet/coco.py'),
        ('configs/retinanet/coco.json', None),  # another kind of file
        ('configs/retinanet', None),
        ('configs/yolox/coco.py', None),
        ('retinanet.py', None),
    ],
)
def test_the_nearest_file_is_named(tmp_path, monkeypatch, given, near):
    (tmp_path / 'configs' / 'retinanet').mkdir(parents=True)
    (tmp_path / 'configs' / 'retinanet' / 'coco.py').touch()
    monkeypatch.chdir(tmp_path)
    assert misspelt(given) == (f", did you mean '{near}'?" if near else '')
