import sys
import types

import pytest
import torch

from mmacs.utils import compat
from mmacs.utils.errors import MmacsError


def test_a_missing_framework_is_one_sentence_that_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmengine', None)
    with pytest.raises(MmacsError, match='mmacs needs mmengine, which is not installed: .*bootstrap.py setup'):
        compat.check_frameworks()


def test_an_old_framework_is_named_with_the_version_that_is_needed(monkeypatch):
    old = types.ModuleType('mmdet')
    old.__version__ = '2.28.2'
    monkeypatch.setitem(sys.modules, 'mmdet', old)
    with pytest.raises(MmacsError, match=r'mmacs needs mmdet >= 3\.3, found 2\.28\.2'):
        compat.check_frameworks()


def test_a_framework_that_breaks_while_importing_is_not_taken_for_a_missing_one(monkeypatch):
    real = compat.import_module

    def broken(name):
        if name == 'mmdet':
            raise ImportError('libGL.so.1: cannot open shared object file')
        return real(name)

    monkeypatch.setattr(compat, 'import_module', broken)
    with pytest.raises(MmacsError, match='mmdet is installed but does not import .*libGL'):
        compat.check_frameworks()


def test_history_buffers_load_and_arbitrary_attributes_do_not(tmp_path):
    from mmengine.logging import HistoryBuffer

    compat.check_frameworks()
    buffer = HistoryBuffer()
    buffer.update(3.0)
    torch.save(dict(loss=buffer), tmp_path / 'good.pth')
    assert torch.load(tmp_path / 'good.pth', weights_only=True)['loss'].current() == 3.0

    class Evil:
        def __reduce__(self):
            return (getattr, (HistoryBuffer, '__init__'))

    torch.save(Evil(), tmp_path / 'evil.pth')
    with pytest.raises(Exception, match='may not look up|Unsupported'):
        torch.load(tmp_path / 'evil.pth', weights_only=True)


def test_the_state_of_a_one_cycle_schedule_loads(tmp_path):
    from mmengine.optim import OneCycleLR

    compat.check_frameworks()
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = OneCycleLR(optimizer, eta_max=0.1, total_steps=10)
    torch.save(dict(schedule=schedule.state_dict()), tmp_path / 'epoch_1.pth')
    loaded = torch.load(tmp_path / 'epoch_1.pth', weights_only=True)['schedule']
    assert loaded['anneal_func'](1.0, 0.0, 0.5) == pytest.approx(0.5)
