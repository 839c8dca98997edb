import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mmacs.utils.closed import closed


@pytest.mark.parametrize(
    'act',
    [
        lambda: Path(__file__).with_suffix('.txt').read_text(),
        lambda: Path('new.py').write_text(''),
        lambda: os.open('new.py', os.O_CREAT | os.O_WRONLY),
        lambda: os.remove('new.py'),
        lambda: os.system('true'),
        lambda: subprocess.run(['true']),
        lambda: socket.create_connection(('127.0.0.1', 9)),
    ],
)
def test_nothing_outside_is_reached(act, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with closed(), pytest.raises(PermissionError, match='it tried what it may not'):
        act()
    assert not list(tmp_path.iterdir())


def test_modules_are_imported_and_it_ends(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, 'dont_write_bytecode', False)
    monkeypatch.delitem(sys.modules, 'imported_while_closed', raising=False)
    (tmp_path / 'imported_while_closed.py').write_text('value = 1\n')
    with closed(), closed():
        import imported_while_closed
    assert imported_while_closed.value == 1
    assert [path.name for path in tmp_path.iterdir()] == ['imported_while_closed.py']
    (tmp_path / 'text').write_text('again')
    assert (tmp_path / 'text').read_text() == 'again'
