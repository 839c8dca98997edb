"""Detectors as ONNX graphs: any batch and size, one node for suppression, the same results in both runtimes."""

from collections import Counter

import numpy as np
import onnxruntime
import openvino
import pytest
import torch

from mmacs.deploy.detection import detector_outputs
from mmacs.deploy.tracing import exporting
from tests.test_deploy.detectors import DETECTORS, detector

FEW = ('RetinaNet', 'FasterRCNN')  # of the others the graph takes as long, and shows less


def graph_of(module):
    size = torch.export.Dim.DYNAMIC
    with torch.no_grad(), exporting():
        shapes = ({0: size, 2: size, 3: size},)
        program = torch.export.export(module, (torch.randn(2, 3, 256, 320),), dynamic_shapes=shapes, strict=False)
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


@pytest.mark.parametrize(
    'name', [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in DETECTORS]
)
@torch.no_grad()
def test_a_graph_detects_what_the_module_does(name):
    module = detector_outputs(detector(name), max_detections=120)
    model, nodes = graph_of(module)
    assert nodes['NonZero'] == 0
    assert nodes['NonMaxSuppression'] == {'FasterRCNN': 2, 'DETR': 0}.get(name, 1)
    for images, runtime, found in results(model, [torch.randn(1, 3, 96, 128), torch.randn(3, 3, 160, 96)]):
        expected = module(images)
        for part, own in zip(found, expected):
            assert part.shape == own.shape, runtime
            np.testing.assert_allclose(part, own, rtol=0, atol=2e-3, err_msg=runtime)
        assert (expected[1] > 0).sum() > 30
