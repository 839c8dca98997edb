"""Detectors as ONNX graphs: any batch and size, one node for suppression, the same results in both runtimes."""

from collections import Counter

import numpy as np
import onnxruntime
import openvino
import pytest
import torch

from mmacs.deploy.detection import detector_outputs
from mmacs.deploy.detection.candidates import best
from mmacs.deploy.tracing import exporting
from tests.test_deploy.detectors import detector

DYNAMIC = torch.export.Dim.DYNAMIC


def graph_of(module, example, dynamic):
    with torch.no_grad(), exporting():
        program = torch.export.export(module, (example,), dynamic_shapes=(dynamic,), strict=False)
        written = torch.onnx.export(program, dynamo=True, opset_version=21, input_names=['images'], verbose=False)
    return written.model_proto.SerializeToString(), Counter(node.op_type for node in written.model_proto.graph.node)


def results(model, images):
    """What each runtime gives, by its name."""
    session = onnxruntime.InferenceSession(model, providers=['CPUExecutionProvider'])
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model), 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    for batch in images:
        given = batch.numpy()
        yield batch, 'onnxruntime', session.run(None, {'images': given})
        yield batch, 'openvino', [np.array(part) for part in compiled(given).values()]


@pytest.mark.slow
@pytest.mark.parametrize('name', ['FasterRCNN', 'YOLOX'])  # which have all that the others have
@torch.no_grad()
def test_a_graph_detects_what_the_module_does(name):
    module = detector_outputs(detector(name), max_detections=120)
    model, nodes = graph_of(module, torch.randn(2, 3, 256, 320), {0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC})
    assert nodes['NonZero'] == 0
    assert nodes['NonMaxSuppression'] == (2 if name == 'FasterRCNN' else 1)
    for images, runtime, found in results(model, [torch.randn(1, 3, 96, 128), torch.randn(3, 3, 160, 96)]):
        expected = module(images)
        assert (expected[1] > 0).sum() > 30
        for part, own in zip(found, expected):
            assert part.shape == own.shape, runtime
        equal = np.isclose(found[0], expected[0], rtol=0, atol=1e-2).all(-1) & (found[2] == expected[2].numpy())
        assert equal.mean() > 0.98, runtime  # a few with almost the same score change places
        np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=1e-3, err_msg=runtime)


class Best(torch.nn.Module):
    def forward(self, images):
        return best(images[:, :, 0].flatten(1), 400)


def test_onnxruntime_takes_the_first_of_equal_scores():  # OpenVINO any
    images = torch.randint(-3, 3, (3, 3, 1, 300)) / 4
    images[1] = 0.5
    model, _ = graph_of(Best(), torch.rand(2, 3, 1, 200), {0: DYNAMIC, 3: DYNAMIC})
    for batch, runtime, found in results(model, [images, images[:1, ..., :100]]):
        scores, places = Best()(batch)
        np.testing.assert_array_equal(found[0], scores, err_msg=runtime)
        if runtime == 'onnxruntime':
            np.testing.assert_array_equal(found[1], places)
