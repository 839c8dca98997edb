"""Reports at the end of a run."""

import logging
from types import SimpleNamespace

import pytest

from mmacs.hooks.run import report_at_end
from mmacs.registry import HOOKS
from mmacs.utils.errors import MmacsError
from mmacs.visualization.report_hooks import CoresetReportHook, QuantizationReportHook


@pytest.mark.parametrize(
    ('error', 'said', 'traceback'),
    [
        (MmacsError('there is no val_dataloader'), 'there is no val_dataloader', False),
        (KeyError('bboxes'), "there is no 'bboxes'", True),
        (RuntimeError('out of memory'), 'out of memory', True),
    ],
)
def test_a_run_that_is_complete_does_not_fail_for_its_report(monkeypatch, caplog, error, said, traceback):
    def fail(self, runner):
        raise error

    for kind in (CoresetReportHook, QuantizationReportHook):
        monkeypatch.setattr(kind, '_write', fail)
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            kind().after_train(SimpleNamespace(logger=logging.getLogger()))
        (record,) = caplog.records
        assert record.getMessage().endswith(f'could not be written: {said}')
        assert bool(record.exc_info) == traceback


def test_a_runner_that_trains_twice_writes_a_report_once():
    runner = SimpleNamespace(hooks=[])
    runner.register_hook = lambda hook: runner.hooks.append(HOOKS.build(hook))
    for _ in range(2):
        report_at_end(runner, 'QuantizationReportHook')
    assert [type(hook) for hook in runner.hooks] == [QuantizationReportHook]
