"""What runtimes do of detection that torch does; whole detectors are in test_families.py."""

import numpy as np
import onnxruntime
import torch

from mmacs.deploy.detection.candidates import best
from mmacs.deploy.runtimes.openvino_core import core
from mmacs.deploy.tracing import exporting

DYNAMIC = torch.export.Dim.DYNAMIC


def graph_of(module, example, dynamic):
    with torch.no_grad(), exporting():
        program = torch.export.export(module, (example,), dynamic_shapes=(dynamic,), strict=False)
        written = torch.onnx.export(program, dynamo=True, opset_version=21, input_names=['images'], verbose=False)
    return written.model_proto.SerializeToString()


def results(model, images):
    """What each runtime gives, by its name."""
    session = onnxruntime.InferenceSession(model, providers=['CPUExecutionProvider'])
    compiled = core().compile_model(core().read_model(model), 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    for batch in images:
        given = batch.numpy()
        yield batch, 'onnxruntime', session.run(None, {'images': given})
        yield batch, 'openvino', [np.array(part) for part in compiled(given).values()]


class Best(torch.nn.Module):
    def forward(self, images):
        return best(images[:, :, 0].flatten(1), 400)


def test_onnxruntime_takes_the_first_of_equal_scores():  # OpenVINO any
    images = torch.randint(-3, 3, (3, 3, 1, 300)) / 4
    images[1] = 0.5
    model = graph_of(Best(), torch.rand(2, 3, 1, 200), {0: DYNAMIC, 3: DYNAMIC})
    for batch, runtime, found in results(model, [images, images[:1, ..., :100]]):
        scores, places = Best()(batch)
        np.testing.assert_array_equal(found[0], scores, err_msg=runtime)
        if runtime == 'onnxruntime':
            np.testing.assert_array_equal(found[1], places)
