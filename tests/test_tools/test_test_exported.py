"""``tools/test.py CONFIG model.onnx``: an exported file with a config's own data and metrics."""

import json

import pytest
from mmengine.config import Config

from tests.test_deploy.graphs import detector_graph


@pytest.fixture
def file(tmp_path):
    def save(**values):
        path = tmp_path / 'model.onnx'
        path.write_bytes(detector_graph(**values).SerializeToString())
        return path

    return save


@pytest.mark.parametrize('backend', ['onnxruntime', 'openvino'])
def test_an_exported_file_is_evaluated(command, config, file, tmp_path, backend):
    cfg = Config.fromfile(config)
    cfg.custom_hooks = [dict(type='EMAHook')]
    cfg.dump(config)
    assert command('test.py', config, file(), '--backend', backend, '--show-dir', 'shown') == (0, '')
    (log,) = (tmp_path / 'run').glob('*/*.json')
    assert 'coco/bbox_mAP' in json.loads(log.read_text().splitlines()[-1])
    assert len(list((tmp_path / 'run').rglob('shown/**/*.png'))) == 12


def test_what_does_not_fit_is_one_sentence(command, config, file, tmp_path):
    assert command('test.py', config, file(classes=['a', 'c', 'b'])) == (
        1,
        'error: the exported file and test_dataloader have the same classes in different orders (a, c, b; a, b, c), '
        'and so different numbers for them: take one order',
    )
    status, message = command('test.py', config, tmp_path / 'none.onnx')
    assert status == 1 and message.endswith('none.onnx') and 'there is no exported file' in message
    (tmp_path / 'foreign.onnx').write_bytes(b'nothing')
    status, message = command('test.py', config, tmp_path / 'foreign.onnx')
    assert status == 1 and 'onnxruntime cannot open' in message
    status, message = command('test.py', config, file(), '--launcher', 'pytorch')
    assert status == 1 and message.endswith('runs in one process: leave out --launcher pytorch')
    status, message = command('test.py', config, 'epoch_1.pth', '--backend', 'openvino')
    assert (status, message) == (1, 'error: --backend runs exported files (.onnx, .xml), and epoch_1.pth is none')
