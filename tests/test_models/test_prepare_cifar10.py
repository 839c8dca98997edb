import importlib.util
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip('mmpretrain')

from mmpretrain.datasets.categories import CIFAR10_CATEGORIES  # noqa: E402

from mmacs.utils.errors import MmacsError  # noqa: E402

TOOL = Path(__file__).parents[2] / 'tools' / 'prepare_cifar10.py'


@pytest.fixture
def tool(monkeypatch):
    spec = importlib.util.spec_from_file_location('prepare_cifar10', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, 'IMAGES_PER_CLASS', {'train': 2, 'test': 1})
    return module


def names_of(split, per_class):
    return [f'{split}/{name}/{index:04}.webp' for name in CIFAR10_CATEGORIES for index in range(per_class)]


def pack(path, names):
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, 'w') as archive:
        for name in names:
            archive.writestr(name, f'pixels of {name}')
    return path


@pytest.fixture
def src(tmp_path):
    pack(tmp_path / 'src' / 'train.zip', names_of('train', 2))
    pack(tmp_path / 'src' / 'test.zip', names_of('test', 1))
    return tmp_path / 'src'


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file())


def test_unpacks_both_splits_and_may_run_again(tool, src, tmp_path, monkeypatch, capsys):
    out = tmp_path / 'data' / 'cifar10'
    monkeypatch.setattr(sys, 'argv', ['prepare_cifar10.py', str(src), '--out', str(out)])
    tool.main()
    assert files(out) == sorted(names_of('train', 2) + names_of('test', 1))
    assert (out / 'test/cat/0000.webp').read_text() == 'pixels of test/cat/0000.webp'
    assert capsys.readouterr().out.count('unpacked') == 2
    before = (out / 'test').stat().st_mtime_ns
    tool.main()
    assert capsys.readouterr().out.count('already there') == 2
    assert (out / 'test').stat().st_mtime_ns == before


def test_a_pool_has_as_many_training_images_of_each_class_always_the_same(tool, src, tmp_path, monkeypatch):
    for out in ('a', 'b', 'b'):
        monkeypatch.setattr(sys, 'argv', ['tool', str(src), '--out', str(tmp_path / out), '--per-class', '1'])
        tool.main()
    assert files(tmp_path / 'a') == files(tmp_path / 'b')
    assert sorted(path.parent.name for path in (tmp_path / 'a' / 'train').glob('*/*')) == sorted(CIFAR10_CATEGORIES)
    assert files(tmp_path / 'a' / 'test') == files(tmp_path / 'b' / 'test') != []
    monkeypatch.setattr(sys, 'argv', ['tool', str(src), '--per-class', '3'])
    with pytest.raises(MmacsError, match='--per-class must be from 1 to 2, got 3'):
        tool.main()


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (names_of('test', 1)[1:], 'holds 0 images of airplane, not 1'),
        (names_of('test', 2), 'holds 2 images of airplane, not 1'),
        ([*names_of('test', 1), 'test/unicorn/0000.webp'], 'unicorn'),
        ([*names_of('test', 1), 'test/cat/../../../x.webp'], 'which is not test/<class of CIFAR-10>/<name>'),
        ([*names_of('test', 1), '/x.webp'], 'which is not test/<class of CIFAR-10>/<name>'),
        (names_of('train', 1), 'which is not test/<class of CIFAR-10>/<name>'),
    ],
)
def test_refuses_what_is_not_the_split(tool, tmp_path, names, message):
    archive = pack(tmp_path / 'src' / 'test.zip', names)
    with pytest.raises(MmacsError, match=message) as caught:
        tool.unpack(archive, tmp_path / 'out' / 'test')
    assert '\n' not in str(caught.value)
    assert not (tmp_path / 'out').exists()


def test_missing_archive(tool, tmp_path):
    with pytest.raises(MmacsError, match='test.zip is missing'):
        tool.unpack(tmp_path / 'test.zip', tmp_path / 'out')


def test_damaged_archive_leaves_nothing_behind(tool, src, tmp_path):
    archive = src / 'test.zip'
    archive.write_bytes(archive.read_bytes().replace(b'pixels of test/ship', b'pixels of test/shop'))
    with pytest.raises(MmacsError, match='damaged'):
        tool.unpack(archive, tmp_path / 'out' / 'test')
    assert list((tmp_path / 'out').iterdir()) == []


@pytest.mark.parametrize('keep', [0, 100])
def test_cut_archive(tool, src, tmp_path, keep):
    archive = src / 'test.zip'
    archive.write_bytes(archive.read_bytes()[:keep])
    with pytest.raises(MmacsError, match='damaged or not a zip file'):
        tool.unpack(archive, tmp_path / 'out' / 'test')


def test_leaves_a_folder_with_other_images_alone(tool, src, tmp_path):
    target = tmp_path / 'out' / 'test'
    tool.unpack(src / 'test.zip', target)
    (target / 'cat' / '0000.webp').rename(target / 'cat' / 'mine.webp')
    with pytest.raises(MmacsError, match='move it away'):
        tool.unpack(src / 'test.zip', target)
    assert (target / 'cat' / 'mine.webp').exists()


def test_main_reports_what_the_system_says(tool, src, tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setattr(sys, 'argv', ['prepare_cifar10.py', str(src), '--out', str(tmp_path / 'file')])
    with pytest.raises(MmacsError, match='cannot unpack .*train.zip: .*(Not a directory|File exists)'):
        tool.main()
