"""Reports at the end of a run."""

import logging
from types import SimpleNamespace

import pytest
from torch import nn

from mmacs.hooks.coreset_hook import CoresetHook
from mmacs.hooks.run import report_at_end
from mmacs.registry import HOOKS
from mmacs.utils import progress
from mmacs.utils.errors import MmacsError
from mmacs.visualization.coreset_report import page
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


def test_a_report_is_under_way_for_all_to_see(monkeypatch):
    seen = []
    shown = lambda self, runner: seen.extend(one.name for one in progress._DISPLAY._phases)  # noqa: E731
    for kind in (CoresetReportHook, QuantizationReportHook):
        monkeypatch.setattr(kind, '_write', shown)
        kind().after_train(SimpleNamespace(logger=logging.getLogger()))
    assert seen == ['report of the coreset', 'report of the quantization']


@pytest.mark.parametrize('images', ['images', None])
def test_a_report_without_predictions_says_why_and_has_the_rest(monkeypatch, caplog, tmp_path, images):
    def predict(work_dir, model, seen):
        assert seen == images  # those of the rounds, through whatever pipeline
        raise KeyError('scale_factor')

    written = {}
    monkeypatch.setattr(page, 'write_predicted_report', predict)
    monkeypatch.setattr(page, 'write_report', lambda work_dir, **settings: written.update(settings) or tmp_path)
    hook = CoresetHook(scorer=dict(type='mmacs.DenseDetectionScorer'))
    if images is not None:
        hook._run = SimpleNamespace(engine=SimpleNamespace(data=SimpleNamespace(images=images)))
    runner = SimpleNamespace(logger=logging.getLogger(), hooks=[hook], work_dir=tmp_path, model=nn.Identity())
    with caplog.at_level(logging.INFO):
        CoresetReportHook().after_train(runner)
    why = "there is no 'scale_factor'" if images else 'the run has no CoresetHook that scores images'
    assert written == {'no_predictions': f'What the models find in these images is not known: {why}.'}
    assert [record.getMessage() for record in caplog.records] == [
        f'The report of the coreset has no predictions: {why}',
        f'Report of the coreset: {tmp_path}',
    ]


def test_a_runner_that_trains_twice_writes_a_report_once():
    runner = SimpleNamespace(hooks=[])
    runner.register_hook = lambda hook: runner.hooks.append(HOOKS.build(hook))
    for _ in range(2):
        report_at_end(runner, 'QuantizationReportHook')
    assert [type(hook) for hook in runner.hooks] == [QuantizationReportHook]
