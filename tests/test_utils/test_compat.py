import importlib
import runpy
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


def test_quantization_alone_refuses_an_old_torch_on_import(monkeypatch):
    importlib.import_module('mmacs.quantization')
    assert 'mmacs.utils.torch_version' in sys.modules
    monkeypatch.setattr(torch, '__version__', '2.5.1+cpu')
    with pytest.raises(MmacsError, match=r'mmacs needs torch >= 2\.6, found 2\.5\.1\+cpu'):
        runpy.run_module('mmacs.utils.torch_version')
