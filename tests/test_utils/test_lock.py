import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from mmacs.utils.errors import MmacsError
from mmacs.utils.lock import hold_work_dir, holds, try_lock, unlock

HOLD = """
import fcntl, os, sys, time
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.lockf(file, fcntl.LOCK_EX)
os.write(file, b'process 7 on a machine')
print('held', flush=True)
if os.fork() == 0:  # a worker, which outlives a killed run
    time.sleep(60)
time.sleep(60)
"""


@contextmanager
def another_process_locks(path):
    """Gives a process that holds a lock and has a forked child; all of it is killed at the end."""
    process = subprocess.Popen(
        [sys.executable, '-S', '-c', HOLD, str(path)], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout.readline() == b'held\n'
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def test_a_second_run_in_a_work_dir_is_refused_until_the_first_is_dead_however_its_workers_live(tmp_path):
    with another_process_locks(tmp_path / '.lock') as process:
        start = time.monotonic()
        with pytest.raises(MmacsError, match=r'in use by another run \(process 7 on a machine\): .*--work-dir'):
            hold_work_dir(tmp_path, patience=0.2)
        assert time.monotonic() - start >= 0.2
        process.kill()  # not its child
        process.wait()
        assert hold_work_dir(tmp_path)
        assert not hold_work_dir(tmp_path)  # it is ours already
        assert (tmp_path / '.lock').read_text().startswith(f'process {os.getpid()} on ')
    unlock(tmp_path / '.lock')
    assert not holds(tmp_path / '.lock')
    with another_process_locks(tmp_path / '.lock'):
        assert not try_lock(tmp_path / '.lock')


def test_what_a_lock_file_says_is_not_printed_if_it_is_not_plain(tmp_path):
    with another_process_locks(tmp_path / '.lock'):
        (tmp_path / '.lock').write_bytes(b'\x1b[2J')
        with pytest.raises(MmacsError, match='in use by another run: '):
            hold_work_dir(tmp_path, patience=0)


def test_where_there_are_no_locks_the_run_goes_on_with_a_warning(tmp_path, monkeypatch, capsys):
    def none(*_):
        raise OSError(37, 'No locks available')

    monkeypatch.setattr('fcntl.lockf', none)
    assert not hold_work_dir(tmp_path)
    assert 'cannot be locked (No locks available)' in capsys.readouterr().out


@pytest.mark.parametrize('path', ['file', 'file/run'])
def test_a_work_dir_that_is_a_file_is_named(tmp_path, path):
    (tmp_path / 'file').touch()
    with pytest.raises(MmacsError, match=f'cannot write .*{path} .*something else is in its place.*--work-dir'):
        hold_work_dir(tmp_path / path)


def test_a_work_dir_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    def read_only(*_):
        raise OSError(30, 'Read-only file system')

    monkeypatch.setattr('os.open', read_only)
    with pytest.raises(
        MmacsError, match='cannot write .*Read-only file system.*make it writable or choose another --work'
    ):
        hold_work_dir(tmp_path)
