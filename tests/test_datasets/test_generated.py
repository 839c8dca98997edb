import json
import multiprocessing

import pytest

from mmacs.datasets.generated import MANIFEST, generate_once, parse_spec
from mmacs.datasets.shape_scenes import DetectionSpec, write_detection
from mmacs.utils.errors import MmacsError

RECIPE = {'generator': 'test', 'version': 1}


def write_letters(folder):
    (folder / 'letters').mkdir()
    for letter in 'abc':
        (folder / 'letters' / letter).write_text(letter * 10)


def refuse_to_write(folder):
    pytest.fail('the data set was written again')


@pytest.fixture
def root(tmp_path):
    root = tmp_path / 'data' / 'set'
    generate_once(root, RECIPE, write_letters)
    return root


def test_writes_on_first_use_only(root):
    assert (root / 'letters' / 'b').read_text() == 'bbbbbbbbbb'
    generate_once(root, RECIPE, refuse_to_write)


def test_leaves_nothing_else_behind(root):
    assert [path.name for path in root.parent.iterdir()] == ['set']


def test_uses_an_empty_folder(tmp_path):
    generate_once(tmp_path, RECIPE, write_letters)
    assert (tmp_path / 'letters' / 'a').is_file()


def test_files_of_the_user_do_no_harm(root):
    (root / 'notes.txt').write_text('mine')
    generate_once(root, RECIPE, refuse_to_write)


def test_failure_leaves_no_half_data_set(tmp_path):
    def fail(folder):
        write_letters(folder)
        raise RuntimeError('out of ink')

    with pytest.raises(RuntimeError, match='out of ink'):
        generate_once(tmp_path / 'set', RECIPE, fail)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('damage', ['truncated', 'altered', 'missing'])
def test_damage_is_named(root, damage):
    path = root / 'letters' / 'b'
    if damage == 'missing':
        path.unlink()
    else:
        path.write_text({'truncated': 'bbb', 'altered': 'bbbbbbbbbB'}[damage])
    with pytest.raises(MmacsError, match=r'damaged \(letters/b is missing or altered\).*delete the folder'):
        generate_once(root, RECIPE, refuse_to_write)


def test_another_version_is_refused(root):
    with pytest.raises(MmacsError, match=r'another embedded data set \(version is 1 instead of 2\)'):
        generate_once(root, {**RECIPE, 'version': 2}, refuse_to_write)


@pytest.mark.parametrize('manifest', [None, 'no json', '[]', '{"recipe": 3}', '{"recipe": 3, "checksums": 4}'])
def test_a_folder_of_somebody_else_is_refused_and_kept(tmp_path, manifest):
    (tmp_path / 'thesis.tex').write_text('years of work')
    if manifest is not None:
        (tmp_path / MANIFEST).write_text(manifest)
    with pytest.raises(MmacsError, match='holds no embedded data set'):
        generate_once(tmp_path, RECIPE, refuse_to_write)
    assert (tmp_path / 'thesis.tex').read_text() == 'years of work'


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / 'set').write_text('a file')
    with pytest.raises(MmacsError, match='holds no embedded data set'):
        generate_once(tmp_path / 'set', RECIPE, refuse_to_write)


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(MmacsError, match='cannot write .*file/set .*choose another data_root'):
        generate_once(tmp_path / 'file' / 'set', RECIPE, write_letters)


def test_the_slower_of_two_takes_what_the_faster_wrote(tmp_path):
    root = tmp_path / 'set'

    def write_slowly(folder):
        generate_once(root, RECIPE, write_letters)
        (root / 'first').touch()
        write_letters(folder)

    generate_once(root, RECIPE, write_slowly)
    assert (root / 'first').is_file()
    assert list(tmp_path.iterdir()) == [root]


def _generate(root, barrier, results):
    barrier.wait()
    spec = DetectionSpec(num_train=12, num_val=2, long_side=64)
    generate_once(root, RECIPE, lambda folder: write_detection(folder, spec))
    results.put(sorted(json.loads((root / MANIFEST).read_text())['checksums'].items()))


def test_two_processes_at_once(tmp_path):
    context = multiprocessing.get_context('fork')
    barrier, results = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=_generate, args=(tmp_path / 'set', barrier, results), daemon=True) for _ in range(2)
    ]
    for process in processes:
        process.start()
    first, second = (results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert first == second and len(first) == 16
    assert [path.name for path in tmp_path.iterdir()] == ['set']


def test_parse_spec():
    assert parse_spec(DetectionSpec, None) == DetectionSpec()
    assert parse_spec(DetectionSpec, {'seed': 3}) == DetectionSpec(seed=3)


@pytest.mark.parametrize(
    'values, message',
    [
        ({'num_trian': 10}, "did you mean 'num_train'"),
        ({'num_train': -1}, 'num_train of the data set spec must be a whole number, at least 0, got -1'),
        ({'seed': 'zero'}, "got 'zero'"),
        ({'seed': True}, 'got True'),
    ],
)
def test_parse_spec_refuses(values, message):
    with pytest.raises(MmacsError, match=message):
        parse_spec(DetectionSpec, values)
