import json
import os
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from unittest.mock import patch
from uuid import uuid4

import pytest
import torch
from torch.multiprocessing import spawn

from mmacs.coreset.scoring.teacher_cache import CacheWriter, cache_key, open_cache
from mmacs.utils.errors import MmacsError
from tests.test_utils.test_lock import another_process_locks

N = 10
KEY = cache_key(weights='a', data='b')


def rows(positions):
    """Rows that say whose they are."""
    positions = torch.as_tensor(positions)
    return {'probs': positions[:, None] + torch.tensor([0.25, 0.5]), 'classes': (3 * positions).to(torch.int16)}


def build(folder, batches=((7, 1, 9), (0, 2, 3, 4, 8), (6, 5))):
    with CacheWriter(folder, KEY, N) as writer:
        for batch in batches:
            writer.write(batch, rows(batch))
        return writer.finish()


def assert_complete(cache):
    positions = [3, 9, 0, 3]
    for name, values in rows(positions).items():
        found = cache.rows(positions)[name]
        assert found.dtype == values.dtype and torch.equal(found, values)
    assert cache.rows(range(N))['classes'].tolist() == list(range(0, 3 * N, 3))
    assert cache.rows([])['probs'].shape == (0, 2)
    assert [*cache.rows([0], ['classes', 'none'])] == ['classes']


def test_rows_come_back_by_position_whatever_the_order_of_writing(tmp_path):
    assert open_cache(tmp_path / 'new', KEY, N) is None
    assert_complete(build(tmp_path / 'new'))
    assert_complete(open_cache(tmp_path / 'new', KEY, N))
    assert os.listdir(tmp_path / 'new') == [KEY]


def test_rows_are_copies(tmp_path):
    cache = build(tmp_path)
    cache.rows([1])['probs'].zero_()
    assert_complete(cache)


def test_keys_say_what_a_cache_depends_on():
    assert cache_key(b=[1, 2.5], a={'x': None}) == cache_key(a={'x': None}, b=[1, 2.5])
    assert len({cache_key(a=1, b=2), cache_key(a=2, b=1), cache_key(a=1), cache_key(a='1')}) == 4
    assert len(KEY) == 16 and int(KEY, 16) >= 0


def flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ('file', 'damage', 'reason'),
    [
        ('probs.npy', lambda path: os.truncate(path, 100), 'has 100 bytes instead of 208'),
        ('probs.npy', flip, 'probs.npy is damaged'),
        ('classes.npy', os.remove, 'cannot be read'),
        ('cache.json', os.remove, 'cannot be read'),
        ('cache.json', lambda path: path.write_text('[]'), 'cannot be read'),
        ('cache.json', lambda path: path.write_text('{"arr'), 'cannot be read'),
        ('cache.json', partial(edit, key='0' * 16), f'has key 0000000000000000 instead of {KEY}'),
        ('cache.json', partial(edit, format=0), 'has format 0 instead of 1'),
        ('cache.json', lambda path: path.write_text('[' * 100_000), 'cannot be read'),
        ('cache.json', partial(edit, arrays={'probs': 5}), 'cannot be read'),
    ],
)
def test_a_damaged_cache_is_not_opened_but_replaced(tmp_path, capsys, file, damage, reason):
    build(tmp_path)
    damage(tmp_path / KEY / file)
    assert open_cache(tmp_path, KEY, N) is None
    assert reason in capsys.readouterr().out
    build(tmp_path)
    assert_complete(open_cache(tmp_path, KEY, N))
    assert os.listdir(tmp_path) == [KEY]


def test_a_cache_of_another_key_or_number_of_images_is_not_opened(tmp_path, capsys):
    build(tmp_path)
    assert open_cache(tmp_path, cache_key(weights='other', data='b'), N) is None
    assert 'no cache of these weights, images and settings, only of others' in capsys.readouterr().out
    assert open_cache(tmp_path, KEY, N + 1) is None
    assert 'has num_images 10 instead of 11' in capsys.readouterr().out


def test_the_first_of_two_runs_names_the_cache_and_the_second_takes_it(tmp_path):
    with CacheWriter(tmp_path, KEY, N) as slow, CacheWriter(tmp_path, KEY, N) as fast:
        slow.write(range(5), rows(range(5)))
        fast.write(range(N), rows(range(N)))
        first = fast.finish()
        made = (tmp_path / KEY / 'probs.npy').stat().st_ino
        slow.write(range(5, N), rows(range(5, N)))
        assert_complete(slow.finish())
        assert_complete(first)
        assert (tmp_path / KEY / 'probs.npy').stat().st_ino == made
        assert os.listdir(tmp_path) == [KEY]


def test_what_a_killed_run_leaves_goes_at_the_next_start_and_what_a_living_one_has_stays(tmp_path):
    def leftover(lock):
        folder = tmp_path / f'.{KEY}.{uuid4().hex}'
        folder.mkdir()
        (folder / 'probs.0').write_bytes(b'1234')
        if lock:
            (folder / '.lock').touch()
        return folder

    abandoned, foreign, of_no_locks = leftover(True), leftover(True), leftover(False)
    (tmp_path / '.git').mkdir()
    with another_process_locks(foreign / '.lock'), CacheWriter(tmp_path, KEY, N) as living:
        living.write(range(N), rows(range(N)))
        assert open_cache(tmp_path, KEY, N) is None
        assert not abandoned.exists() and foreign.exists() and of_no_locks.exists()
        assert_complete(living.finish())
    long_ago = time.time() - 25 * 60 * 60
    os.utime(of_no_locks, (long_ago, long_ago))
    open_cache(tmp_path, KEY, N)
    assert of_no_locks.exists()  # its files are new
    for path in (*of_no_locks.iterdir(), of_no_locks, tmp_path / '.git'):
        os.utime(path, (long_ago, long_ago))
    open_cache(tmp_path, KEY, N)
    assert sorted(os.listdir(tmp_path)) == sorted([KEY, '.git'])
    assert_complete(open_cache(tmp_path, KEY, N))


def test_a_cache_that_is_cut_short_while_it_is_read_is_an_error_and_then_made_again(tmp_path):
    cache = build(tmp_path)
    os.truncate(tmp_path / KEY / 'probs.npy', 170)
    assert cache.rows([0, 1, 2])['probs'].shape == (3, 2)
    with pytest.raises(MmacsError, match='probs.npy was cut short while the run read it: resume'):
        cache.rows([2, 9])
    assert open_cache(tmp_path, KEY, N) is None
    assert_complete(build(tmp_path))


def test_foreign_files_and_a_file_in_the_place_of_the_cache(tmp_path, capsys):
    (tmp_path / KEY).write_text('mine')
    (tmp_path / 'notes').mkdir()
    assert open_cache(tmp_path, KEY, N) is None
    build(tmp_path)
    for name in ('foreign.npy', 'other.npz', 'README'):
        (tmp_path / KEY / name).write_text('foreign')
    assert_complete(open_cache(tmp_path, KEY, N))
    other = cache_key(weights='other')
    with CacheWriter(tmp_path, other, N) as writer:
        writer.write(range(N), rows(range(N)))
        writer.finish()
    assert 'also holds 1 caches of other weights' in capsys.readouterr().out
    about = json.loads((tmp_path / KEY / 'cache.json').read_text())
    about['arrays'][f'../{other}/probs'] = about['arrays']['probs']  # sound, but not its own
    edit(tmp_path / KEY / 'cache.json', arrays=about['arrays'])
    assert open_cache(tmp_path, KEY, N) is None
    assert 'none of its own' in capsys.readouterr().out


def test_an_error_on_the_way_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), CacheWriter(tmp_path, KEY, N) as writer:
        writer.write([0], rows([0]))
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ('batches', 'message'),
    [
        ([range(9)], 'each of 10 images once, image 9 was written 0 times'),
        ([range(10), [4]], 'image 4 was written 2 times'),
        ([range(11)], 'image 10 was written 1 times'),
        ([], 'image 0 was written 0 times'),
    ],
)
def test_each_image_is_written_once(tmp_path, batches, message):
    with pytest.raises(MmacsError, match=message):
        build(tmp_path, batches)
    assert os.listdir(tmp_path) == []


def test_rows_of_another_kind(tmp_path):
    with CacheWriter(tmp_path, KEY, N) as writer:
        writer.write([0], {'probs': torch.zeros(1, 2)})
        for other in (torch.zeros(1, 3), torch.zeros(1, 2).half(), torch.zeros(2, 2)):
            with pytest.raises(MmacsError, match='rows of one kind'):
                writer.write([1], {'probs': other})


def test_a_full_disk_while_writing(tmp_path, monkeypatch):
    with CacheWriter(tmp_path, KEY, N) as writer:
        monkeypatch.setattr(CacheWriter, '_shard', lambda *_: '/dev/full')
        with pytest.raises(
            MmacsError, match='cannot write .*No space left on device; 100 bytes needed.*or set cache_dir'
        ):
            writer.write([0], rows([0]))
    assert os.listdir(tmp_path) == []


def test_a_full_disk_at_the_end(tmp_path):
    with CacheWriter(tmp_path, KEY, N) as writer:
        writer.write(range(N), rows(range(N)))
        (temporary,) = tmp_path.iterdir()
        (temporary / 'classes.npy').symlink_to('/dev/full')
        with pytest.raises(MmacsError, match='No space left on device'):
            writer.finish()
    assert open_cache(tmp_path, KEY, N) is None


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(MmacsError, match='cannot write .*set cache_dir'):
        CacheWriter(tmp_path / 'file', KEY, N)
    assert open_cache(tmp_path / 'file', KEY, N) is None


def process(rank, folder):
    assert_complete(open_cache(folder / 'race', KEY, N) or build(folder / 'race'))  # each a run of its own
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    folder = folder / 'caches'
    shares = {'uneven': ([(7, 1), (0, 2, 3, 4, 8), (6,)], [(9, 5)]), 'none': ([], [tuple(range(N))])}
    for name, share in shares.items():
        assert open_cache(folder / name, KEY, N) is None
        assert_complete(build(folder / name, share[rank]))
        assert_complete(open_cache(folder / name, KEY, N))
    with pytest.raises(MmacsError, match='image 0 was written 2 times'):  # in both processes
        build(folder / 'double', [tuple(range(N))])
    unshared = patch.object(Path, 'is_dir', return_value=False) if rank == 1 else nullcontext()
    with unshared, pytest.raises(MmacsError, match='process 1 on .* cannot see .* set cache_dir'):
        build(folder / 'unshared')
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_as_two_runs_at_once_and_as_one_run_that_shares_the_images_out(tmp_path):
    spawn(process, (tmp_path,), nprocs=2)
    assert os.listdir(tmp_path / 'race') == [KEY]
    assert_complete(open_cache(tmp_path / 'race', KEY, N))
    caches = tmp_path / 'caches'
    assert os.listdir(caches / 'double') == os.listdir(caches / 'unshared') == []
    for name in ('none', 'uneven'):  # what two processes wrote, one reads, and would have written the same
        assert_complete(open_cache(caches / name, KEY, N))
        for file in ('probs.npy', 'classes.npy', 'cache.json'):
            assert (caches / name / KEY / file).read_bytes() == (tmp_path / 'race' / KEY / file).read_bytes()
