import os
import sys

import pytest

from mmacs.cli.comparison.run import places_of, require_gpus
from mmacs.cli.comparison.side_by_side import Command, run_side_by_side
from mmacs.utils.errors import MmacsError


def python(code, log):
    return Command([sys.executable, '-S', '-c', code], log)


def test_processes_run_at_the_same_time_each_in_its_place_and_one_that_fails_does_not_end_the_others(tmp_path):
    # each of the first two waits for a file of the other
    meet = (
        'import os, pathlib, sys, time\n'
        'me, other = {!r}, {!r}\n'
        'pathlib.Path(me).write_text(os.environ["PLACE"])\n'
        'while not os.path.exists(other): time.sleep(0.01)\n'
        'print("met", file=sys.stderr); sys.exit({})'
    )
    one, two = str(tmp_path / 'one'), str(tmp_path / 'two')
    codes = {'a': meet.format(one, two, 3), 'b': meet.format(two, one, 0), 'c': 'pass'}
    ended = {}
    left = run_side_by_side(
        list(codes),
        [{'PLACE': '0'}, {'PLACE': '1'}],
        lambda task: python(codes[task], tmp_path / 'logs' / task),
        ended.__setitem__,
    )
    assert left == []
    assert ended == {'a': 3, 'b': 0, 'c': 0}
    assert {(tmp_path / name).read_text() for name in ('one', 'two')} == {'0', '1'}
    assert (tmp_path / 'logs' / 'a').read_text() == 'met\n'


def test_a_task_waits_until_others_have_ended_and_for_ever_if_they_do_not(tmp_path):
    done = []

    def start(task):
        ready = task == 'first' or task == 'second' and 'first' in done
        return python('pass', tmp_path / task) if ready else None

    left = run_side_by_side(['never', 'second', 'first'], [{}, {}], start, lambda task, status: done.append(task))
    assert done == ['first', 'second']
    assert left == ['never']


def test_no_process_outlives_an_interrupted_command(tmp_path):
    codes = {'long': f'import os, time; open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid())); time.sleep(600)'}
    codes['short'] = (
        f'import os, time\nwhile not (os.path.exists({str(tmp_path / "pid")!r}) and '
        f'os.path.getsize({str(tmp_path / "pid")!r})): time.sleep(0.01)'
    )

    def interrupt(task, status):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_side_by_side(list(codes), [{}, {}], lambda task: python(codes[task], tmp_path / task), interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / 'pid').read_text()), 0)


def test_places_share_out_threads_and_gpus(monkeypatch):
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    places = places_of(jobs=3, threads=1, gpus=[4, 6])
    assert [place['CUDA_VISIBLE_DEVICES'] for place in places] == ['4', '6', '4']
    assert {place['OMP_NUM_THREADS'] for place in places} == {'1'}
    assert len(places_of(None, None, [4, 6])) == 2
    (place,) = places_of(None, None, [])
    assert not {'CUDA_VISIBLE_DEVICES', 'OMP_NUM_THREADS'} & place.keys()
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '7,5')
    assert [place['CUDA_VISIBLE_DEVICES'] for place in places_of(None, None, [1, 0])] == ['5', '7']
    monkeypatch.setattr('torch.cuda.device_count', lambda: 2)
    require_gpus([1, 0])
    with pytest.raises(MmacsError, match='--gpus 2: this machine has 2 GPUs'):
        require_gpus([0, 2])
