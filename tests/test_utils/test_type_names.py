"""Names, paths and classes as the ``type`` of a config."""

import pytest
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.optim import AmpOptimWrapper

from mmacs.cli.exported import put_exported
from mmacs.cli.runs import compute_in_bfloat16
from mmacs.hooks.coreset_hook import CoresetHook
from mmacs.utils.type_names import type_name, type_path


def test_a_class_has_the_name_and_the_path_that_a_config_would_write():
    assert [type_name(kind) for kind in ('EMAHook', 'mmengine.EMAHook', EMAHook, None)] == ['EMAHook'] * 3 + ['None']
    assert type_path(EMAHook) == 'mmengine.hooks.ema_hook.EMAHook' and type_path('EMAHook') == 'EMAHook'


@pytest.mark.parametrize('kind', [type_path, lambda kind: kind])
def test_hooks_and_wrappers_are_known_by_class_and_by_path(kind):
    own = dict(type='OwnHook')
    hooks = [dict(type=kind(CoresetHook)), dict(type=kind(EMAHook)), own]
    cfg = Config(dict(custom_hooks=hooks, optim_wrapper=dict(type=kind(AmpOptimWrapper))))
    put_exported(cfg, 'model.onnx', None)
    compute_in_bfloat16(cfg)
    assert cfg.custom_hooks == [own] and cfg.optim_wrapper.type == 'mmacs.CpuAmpOptimWrapper'
