"""``tools/export.py``: the file, its proof and its refusals."""

import json

import pytest

from mmacs.cli import exporting
from tests.test_tools.test_test import cfg  # noqa: F401


@pytest.fixture
def trained(cfg, tmp_path):  # noqa: F811
    cfg.dump(tmp_path / 'config.py')
    return tmp_path / 'config.py', cfg.load_from


def test_a_file_that_is_proven_is_written_and_no_other(trained, command, tmp_path, monkeypatch):
    made = {}

    def kept(name, make):
        return lambda *args, **kwargs: made.setdefault(name, make(*args, **kwargs))

    warned = []
    monkeypatch.setattr(exporting, 'warn_of_pictures', lambda result, file: warned.append(file))
    for name in ('exported', 'prove'):
        monkeypatch.setattr(exporting, name, kept(name, getattr(exporting, name)))
    out = tmp_path / 'exported' / 'model.onnx'
    options = ('--out', out, '--images', 2, '--max-detections', 20, '--evaluate')
    assert command('export.py', *trained, *options) == (0, '')
    report = json.loads((tmp_path / 'exported' / 'model.report.json').read_text())
    assert warned == [out] and report['warnings'] == []
    assert report['passed'] and report['images'] == 2 and report['sizes']['file'] == out.stat().st_size
    assert report['evaluation']['images'] == 12 and len(report['evaluation']['rows']) == 2
    assert (tmp_path / 'exported' / 'model.report.html').exists()
    status, message = command('export.py', *trained, *options)
    assert status == 1 and 'model.onnx exists' in message
    report_file, proven = out.with_suffix('.report.json'), out.with_suffix('.report.json').read_bytes()
    status, message = command('export.py', *trained, '--out', out.with_suffix('.xml'))  # whose report has that name
    assert status == 1 and 'model.report.json exists' in message
    assert report_file.read_bytes() == proven and not out.with_suffix('.xml').exists()
    assert report['written'] == [str(out), str(report_file), str(out.with_suffix('.report.html'))]
    assert command('test.py', trained[0], out, '--backend', 'openvino') == (0, '')

    made['prove'].failures.append('openvino: 99.9000% of all integers are equal')
    for name, one in made.items():
        monkeypatch.setattr(exporting, name, lambda *args, result=one, **kwargs: result)
    status, message = command('export.py', *trained, '--out', tmp_path / 'model.onnx')
    assert status == 1
    assert message.endswith('is not what was trained: openvino: 99.9000% of all integers are equal')
    assert not list(tmp_path.glob('model*'))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--out', 'model.pt'], 'must end in .onnx'),
        (
            ['--out', 'model.onnx', '--launcher', 'pytorch'],
            'this command runs in one process: leave out --launcher pytorch',
        ),
        (['--out', 'model.onnx', '--images', '0'], '--images must be at least 1, got 0'),
        (['--out', 'model.onnx', '--fixed-shape'], '--fixed-shape needs --shape HEIGHT WIDTH'),
        (['--out', 'model.onnx', '--format', 'qonnx', '--evaluate'], 'which --format qonnx is not'),
        (
            ['--out', 'model.onnx', '--cfg-options', 'test_dataloader=None', 'val_dataloader=None'],
            'has no test_dataloader',
        ),
    ],
)
def test_refusals(config, command, tmp_path, options, message):
    status, printed = command('export.py', config, 'epoch_1.pth', *options)
    assert status == 1 and message in printed
    assert not list(tmp_path.glob('model*'))


def test_a_full_precision_checkpoint_is_calibrated_if_asked_to(config, full_precision, command, tmp_path):
    options = ('--out', tmp_path / 'model.onnx', '--images', 1, '--raw')
    status, message = command('export.py', config, full_precision, *options)
    assert status == 1 and 'was never calibrated' in message and '--calibrate' in message
    assert command('export.py', config, full_precision, *options, '--calibrate') == (0, '')
    assert json.loads((tmp_path / 'model.report.json').read_text())['passed']
