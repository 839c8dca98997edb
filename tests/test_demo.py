"""The README's first command, whole: it guards the mission, and takes minutes."""

import json
import runpy
import sys

import pytest
import torch
from mmengine.runner import Runner

from mmacs.quantization import quantizers
from tests.conftest import REPO


@pytest.mark.slow
def test_demo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tool = str(REPO / 'tools' / 'demo.py')
    monkeypatch.setattr(sys, 'argv', [tool, '--work-dir', 'demo', '--data-root', 'shapes'])
    demo = runpy.run_path(tool, run_name='demo')
    demo['main']()

    summary = json.loads((tmp_path / 'demo' / 'summary.json').read_text())
    full_precision, quantized = summary['full_precision']['ap'], summary['w4a4_acs']['ap']
    assert 0.45 < full_precision < 0.9
    assert quantized > full_precision - 0.06
    assert summary['w4a4_acs']['fraction'] == 0.3
    assert all(row['passed'] and abs(row['value'] - quantized) < 0.02 for row in summary['exported']['ap'])
    assert (tmp_path / 'demo' / 'w4a4_acs' / 'model.onnx').stat().st_size < summary['exported']['sizes']['float32'] / 5
    for picture in ('detections.png', 'importance.png'):
        assert (tmp_path / 'demo' / 'w4a4_acs' / picture).stat().st_size > 20_000

    # a second run repeats nothing and says the same
    demo['main']()
    assert json.loads((tmp_path / 'demo' / 'summary.json').read_text()) == summary

    # wrong steps show: the data set is hard enough to tell
    cfg = demo['load'](demo['QUANTIZED'], tmp_path / 'demo' / 'corrupted', 'shapes')
    cfg.load_from = summary['w4a4_acs']['checkpoint']
    runner = Runner.from_cfg(cfg)
    runner.load_or_resume()
    with torch.no_grad():
        for _, quantizer in quantizers(runner.model):
            quantizer.step *= 8
    assert runner.test()['coco/bbox_mAP'] < 0.5 * quantized
