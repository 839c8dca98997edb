"""The runtimes: other sizes and batches than a file was made with, and what they refuse."""

import subprocess
import sys

import numpy as np
import pytest

from mmacs.deploy.runtimes import BACKENDS, open_model
from mmacs.utils.errors import MmacsError
from tests.test_deploy.graphs import residual_graph


@pytest.mark.parametrize('backend', BACKENDS)
def test_batches_and_sizes(backend):
    model = residual_graph()
    model.metadata_props.add(key='mmacs.task', value='"raw"')
    runtime = open_model(model.SerializeToString(), backend, 1)
    assert runtime.inputs == {'images': (None, 3, None, None)}
    assert runtime.outputs == ('cls_score_0', 'bbox_pred_0')
    assert runtime.metadata == {'mmacs.task': '"raw"'}
    for shape in ((1, 3, 32, 32), (3, 3, 40, 64), (0, 3, 32, 32)):
        found = runtime.run({'images': np.zeros(shape, np.float32)}, ['bbox_pred_0'])
        assert [*found] == ['bbox_pred_0'] and found['bbox_pred_0'].shape == (shape[0], 4, *shape[2:])


@pytest.mark.parametrize('backend', BACKENDS)
def test_what_does_not_fit_is_one_sentence(backend, tmp_path):
    runtime = open_model(residual_graph().SerializeToString(), backend, 1)
    image = np.zeros((1, 3, 32, 32), np.float32)
    with pytest.raises(MmacsError, match='takes images of shape any x 3 x any x any, got 1 x 1 x 32 x 32'):
        runtime.run({'images': image[:, :1]})
    with pytest.raises(MmacsError, match="needs the input 'images'"):
        runtime.run({})
    with pytest.raises(MmacsError, match="unknown output 'boxes'"):
        runtime.run({'images': image}, ['boxes'])
    with pytest.raises(MmacsError, match='there is no exported file'):
        open_model(tmp_path / 'none.onnx', backend)
    (tmp_path / 'foreign.onnx').write_bytes(b'no model')
    with pytest.raises(MmacsError, match=f'{backend} cannot open .*foreign.onnx'):
        open_model(tmp_path / 'foreign.onnx', backend)
    (tmp_path / 'epoch_1.pth').write_bytes(b'no model')
    with pytest.raises(MmacsError, match='epoch_1.pth is no exported file: these end in .onnx'):
        open_model(tmp_path / 'epoch_1.pth', backend)


@pytest.mark.parametrize('backend', BACKENDS)
def test_files_for_fpga_flows_are_known_by_their_operators(backend, tmp_path):
    for domain, message in (('qonnx.general', 'is in the format qonnx'), ('mine', f'{backend} cannot open')):
        model = residual_graph()
        model.graph.node[0].domain = domain
        model.opset_import.add(domain=domain, version=1)
        (tmp_path / 'model.onnx').write_bytes(model.SerializeToString())
        for source in (tmp_path / 'model.onnx', model.SerializeToString()):
            with pytest.raises(MmacsError, match=message):
                open_model(source, backend)


def test_files_of_openvino_and_unknown_runtimes(tmp_path):
    (tmp_path / 'model.xml').write_text('<net/>')
    with pytest.raises(MmacsError, match='run it with the backend openvino'):
        open_model(tmp_path / 'model.xml', 'onnxruntime')
    with pytest.raises(MmacsError, match="unknown backend 'tensorrt'"):
        open_model(tmp_path / 'model.xml', 'tensorrt')


SIGNALLED = """
import os, signal, sys
from mmacs.deploy.runtimes import open_model

models = [open_model(sys.argv[1], 'openvino', 1) for _ in range(2)]
while models:
    models.pop(0)
signal.signal(signal.SIGCHLD, lambda *_: print('handled'))
os.kill(os.getpid(), signal.SIGCHLD)
"""


@pytest.mark.skipif(sys.platform == 'win32', reason='POSIX signals')
def test_signals_are_handled_after_models_are_gone(tmp_path):
    """What a training does that follows an export: its data workers end."""
    file = tmp_path / 'model.onnx'
    file.write_bytes(residual_graph().SerializeToString())
    ended = subprocess.run([sys.executable, '-c', SIGNALLED, str(file)], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, 'handled\n')
