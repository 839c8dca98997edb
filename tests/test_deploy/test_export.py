"""The graph that is written."""

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from mmdet.registry import MODELS
from torch import nn

from mmacs.deploy import export_model, exported, open_model
from mmacs.deploy.metadata import read_metadata
from mmacs.deploy.modules.activation import recorded_integers
from mmacs.deploy.reference import reference_model
from mmacs.deploy.runtimes import BACKENDS
from mmacs.quantization.blocks import Addition
from mmacs.utils.errors import MmacsError
from tests.test_deploy.models import Small, quantized, with_random_norms

IMAGES = [torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
FLOAT, INT4, UINT4, INT8 = (onnx.TensorProto.DataType.Value(name) for name in ('FLOAT', 'INT4', 'UINT4', 'INT8'))


def small(recipe):
    return quantized(with_random_norms(Small()), recipe, IMAGES)


def largest_difference(model, result, backend, images):
    with torch.no_grad():
        expected = result.reference(images)
    found = open_model(model, backend).run({'images': images.numpy()})
    return max(np.abs(found[name] - value.numpy()).max() for name, value in zip(result.names, expected))


@pytest.mark.parametrize(
    ('recipe', 'target'),
    [
        ('w4a4', 'cpu'),
        ({'preset': 'w2a2', 'additions': {'bits': 4}}, 'tensorrt'),
        ({'preset': 'w4a4', 'weight': {'type': 'DoReFa'}, 'rules': [{'name': '*', 'weight': {'bits': 4}}]}, 'cpu'),
    ],
    ids=str,
)
def test_runtimes_compute_what_the_reference_does(tmp_path, recipe, target):
    file = tmp_path / 'model.onnx'
    result = export_model(small(recipe), file, target=target)
    other_shape = torch.rand(3, 3, 12, 10)
    scale = result.reference(other_shape)[0].abs().max().item()
    for backend in ('onnxruntime', 'openvino'):
        # what attention makes of the same integers differs in the last bit
        assert largest_difference(file, result, backend, other_shape) < 0.02 * scale
    content = onnx.load(file)
    onnx.checker.check_model(content, full_check=True)
    assert [each.version for each in content.opset_import if each.domain == ''] == [21]
    assert {node.domain for node in content.graph.node} == {''}


def test_weights_are_integers_stored_once():
    content = exported(small('w4a4')).model
    stored = {each.name: each for each in content.graph.initializer}
    kinds = Counter(each.data_type for name, each in stored.items() if '.levels' in name)
    assert kinds == {INT4: 7, INT8: 2}  # all but the first and the last layer; the shared one once
    assert not any(each.data_type == FLOAT and len(each.dims) > 1 and each.dims[-1] > 1 for each in stored.values())
    readers = [node for node in content.graph.node if any('shared.stored_weight.levels' in name for name in node.input)]
    assert len(readers) == 1


def test_levels_that_are_not_evenly_spaced_are_looked_up(tmp_path):
    file = tmp_path / 'model.onnx'
    powers = {'name': 'shared', 'weight': {'type': 'SDQ', 'logarithmic': True, 'pruning': 0.5}}
    model = small({'preset': 'w4a4', 'weight': {'type': 'DQWeight'}, 'rules': [powers]})
    result = export_model(model, file)
    with torch.no_grad():
        reference = result.reference.outputs.model
        assert torch.equal(reference.up.stored_weight(0), model.up.quantized_weight())
        assert torch.equal(reference.shared.stored_weight(0), model.shared.quantized_weight())
        scale = result.reference(IMAGES[0])[0].abs().max().item()
    kinds = Counter(each.data_type for each in result.model.graph.initializer if '.levels' in each.name)
    assert kinds == {UINT4: 7, onnx.TensorProto.UINT8: 2}
    for backend in ('onnxruntime', 'openvino'):
        assert largest_difference(file, result, backend, IMAGES[0]) < 0.02 * scale


def test_each_call_of_a_quantizer_is_one_node_that_has_its_name():
    result = exported(small({'preset': 'w4a4', 'additions': {'bits': 8}}))
    with recorded_integers(result.reference) as integers:
        result.reference(IMAGES[0])
    made = {name: node for node in result.model.graph.node for name in node.output}
    assert integers.keys() <= made.keys()
    quantizers = [node for node in result.model.graph.node if node.op_type == 'QuantizeLinear']
    assert len(quantizers) == len(integers)
    readers = Counter(name for node in result.model.graph.node for name in node.input if name in integers)
    assert set(readers.values()) == {1}
    assert {made[name].op_type for name in integers} == {'QuantizeLinear', 'Clip', 'MaxPool'}


def test_a_channel_of_opposite_sign_keeps_its_lowest_level(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 1))
    model = quantized(model, {'preset': 'w4a4', 'rules': [{'name': '*', 'weight': {'bits': 4}}]}, IMAGES)
    model[0].weight.data[:] = torch.tensor([[-10.0, 2, 1], [-10, 3, -1]])[..., None, None]  # clipped to -8
    model[1].weight.data[:] = torch.tensor([1.0, -1])
    file = tmp_path / 'model.onnx'
    result = export_model(model, file)
    reference = result.reference.outputs.model
    assert reference[0].stored_weight.codes(0).flatten(1).amin(1).tolist()[0] == -64  # 8 times the level
    assert reference[0].stored_weight.codes(0)[1].max() == 64
    scale = result.reference(IMAGES[0])[0].abs().max().item()
    for backend in ('onnxruntime', 'openvino'):
        assert largest_difference(file, result, backend, IMAGES[0]) < 1e-5 * scale


class Residual(nn.Module):
    """Two convolutions whose results are added, as RepVGG has them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.other, self.last = (nn.Conv2d(size, 16, 3, padding=1) for size in (3, 16, 16, 16))
        self.add = Addition()

    def forward(self, x):
        x = self.stem(x).relu()
        return self.last(self.add(self.one(x), self.other(x)).relu())


@pytest.mark.parametrize('bits', [4, 8])
def test_what_is_added_is_rounded_before(bits, tmp_path):
    """OpenVINO would leave that out if it could make one operation of convolution, quantizer and addition."""
    torch.manual_seed(0)
    images = [torch.rand(2, 3, 24, 24) for _ in range(3)]
    model = quantized(Residual(), {'preset': 'w4a4', 'sharing': 'tensor', 'additions': {'bits': bits}}, images)
    file = tmp_path / 'model.onnx'
    result = export_model(model, file)
    scale = result.reference(images[0])[0].abs().max().item()
    for backend in BACKENDS:
        assert largest_difference(file, result, backend, images[0]) < 1e-5 * scale


def test_a_float_weight_before_a_quantizer_is_not_rounded_anew(tmp_path):
    """ONNX Runtime does that where it can move the quantizer up to the convolution."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 1))
    file = tmp_path / 'model.onnx'
    result = export_model(quantized(model, 'w4a4', [image * 3 for image in IMAGES]), file)
    assert largest_difference(file, result, 'onnxruntime', torch.rand(2, 3, 30, 30) * 3) < 1e-5


@pytest.mark.parametrize('bits', [4, 8])
def test_relu6_is_part_of_the_rounding(tmp_path, bits):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Conv2d(8, 8, 3), nn.ReLU6(), nn.Conv2d(8, 4, 1))
    images = [8 * torch.randn(2, 3, 16, 16) for _ in range(3)]
    model = quantized(model, f'w{bits}a{bits}', images)
    model[2].input_quantizer.step.data.fill_(7 / (2**bits - 1))  # levels above 6
    file = tmp_path / 'model.onnx'
    result = export_model(model, file)
    content = onnx.load(file)
    quantizers = {node.output[0]: node for node in content.graph.node if node.op_type == 'QuantizeLinear'}
    assert all(node.input[0] in quantizers for node in content.graph.node if node.op_type == 'Clip')
    for backend in ('onnxruntime', 'openvino'):
        assert largest_difference(file, result, backend, images[0]) < 1e-4


def test_float_weights_are_not_rounded_by_a_runtime(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    rules = [{'name': '2', 'weight': None}]
    images = [torch.randn(2, 3, 16, 16) for _ in range(3)]
    file = tmp_path / 'model.onnx'
    result = export_model(quantized(model, {'preset': 'w8a8', 'rules': rules}, images), file)
    scale = result.reference(images[0])[0].abs().max().item()
    for backend in ('onnxruntime', 'openvino'):
        assert largest_difference(file, result, backend, images[0]) < 1e-3 * scale


def test_a_result_that_is_read_in_floats_too_without_a_bias(tmp_path):
    """OpenVINO computes such convolutions wrongly, if they have no bias in the file."""

    class Read(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(8, 8, 1)

        def forward(self, x):
            y = self.one(x)
            return self.two(y) + y

    file = tmp_path / 'model.onnx'
    images = torch.randn(2, 3, 30, 30)
    result = export_model(quantized(Read(), 'w4a4', [images]), file)
    for backend in ('onnxruntime', 'openvino'):
        assert largest_difference(file, result, backend, images) < 1e-4


def test_integers_are_padded(tmp_path):
    layers = [nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, padding_mode='reflect'), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Conv2d(4, 4, 1))
    file = tmp_path / 'model.onnx'
    result = export_model(quantized(model, 'w4a4', [image - 0.5 for image in IMAGES]), file)
    made = {name: node for node in result.model.graph.node for name in node.output}
    convolutions = [node for node in result.model.graph.node if node.op_type == 'Conv']
    assert {made[node.input[0]].op_type for node in convolutions} == {'DequantizeLinear'}
    assert any(node.op_type == 'Pad' for node in made.values())
    for backend in ('onnxruntime', 'openvino'):
        assert largest_difference(file, result, backend, torch.rand(2, 3, 9, 7)) < 1e-5


def test_quantizers_of_one_tensor_that_do_the_same_keep_their_names(tmp_path):
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.three = (nn.Conv2d(3, 3, 1) for _ in range(3))

        def forward(self, x):
            x = self.one(x)
            return self.two(x), self.three(x)

    model = quantized(Fork(), 'w4a4', IMAGES)
    for layer in (model.two, model.three):
        layer.input_quantizer.step.data.fill_(0.1)
    file = tmp_path / 'model.onnx'
    result = export_model(model, file)
    names = {name for node in result.model.graph.node for name in node.output}
    assert {'two.input_quantizer#0', 'three.input_quantizer#0'} <= names
    assert largest_difference(file, result, 'onnxruntime', IMAGES[0]) < 1e-5


def test_a_fixed_shape(tmp_path):
    file = tmp_path / 'model.onnx'
    result = export_model(small('w4a4'), file, shape=(8, 12), fixed_shape=True)
    runtime = open_model(file)
    assert runtime.inputs == {'images': (1, 3, 8, 12)}
    assert largest_difference(file, result, 'onnxruntime', torch.rand(1, 3, 8, 12)) < 1e-3


def test_qonnx_runs_in_its_own_executor_as_the_reference_does(tmp_path):
    execution = pytest.importorskip('qonnx.core.onnx_exec')
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.util.cleanup import cleanup_model

    file = tmp_path / 'model.onnx'
    result = export_model(small('w4a4'), file, format='qonnx', shape=(8, 8), fixed_shape=True)
    images = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        (expected,) = result.reference(images)
    scale = expected.abs().max().item()
    for backend in BACKENDS:
        with pytest.raises(MmacsError, match='in the format qonnx, which runtimes do not read'):
            open_model(file, backend)
    model = ModelWrapper(str(file))
    assert any(node.op_type == 'Quant' for node in model.graph.node)
    for each in (model, cleanup_model(model)):
        given = {each.graph.input[0].name: images.numpy()}
        found = execution.execute_onnx(each, given)[each.graph.output[0].name]
        assert np.abs(found - expected.numpy()).max() < 0.02 * scale


def test_openvinos_own_format(tmp_path):
    file = tmp_path / 'model.xml'
    result = export_model(small('w4a4'), file)
    scale = result.reference(IMAGES[0])[0].abs().max().item()
    assert largest_difference(file, result, 'openvino', IMAGES[0]) < 0.02 * scale
    assert read_metadata(open_model(file, 'openvino').metadata, file).recipe == {'preset': 'w4a4'}
    assert sorted(path.name for path in tmp_path.iterdir()) == ['model.bin', 'model.xml']


def test_a_detector(tmp_path, tiny_retinanet):
    images = [torch.randn(2, 3, 64, 96) for _ in range(2)]
    model = quantized(with_random_norms(MODELS.build(tiny_retinanet)), 'w4a4-int', images)
    file = tmp_path / 'model.onnx'
    result = export_model(model, file, max_detections=20, score_threshold=0.0)
    assert result.names == ['boxes', 'scores', 'labels']
    pixels = torch.rand(1, 3, 96, 64) * 255
    runtime = open_model(file)
    found = runtime.run({'images': pixels.numpy()})
    assert {name: value.shape for name, value in found.items()} == {
        'boxes': (1, 20, 4),
        'scores': (1, 20),
        'labels': (1, 20),
    }
    metadata = read_metadata(runtime.metadata, file)
    assert (metadata.task, metadata.format, metadata.target) == ('detection', 'qcdq', 'cpu')
    padded = model.data_preprocessor({'inputs': [torch.zeros(3, 1, 1)], 'data_samples': None})['inputs'][0, :, -1, -1]
    gray = torch.tensor(metadata.preprocessing.pad['value']).view(1, 3, 1, 1)  # known without a config
    assert torch.allclose(result.reference.pixels(gray).flatten(), padded, atol=1e-6)
    assert metadata.preprocessing.pad['divisor'] == model.data_preprocessor.pad_size_divisor
    content = onnx.load(file)
    names = Counter(node.op_type for node in content.graph.node)
    assert names['NonMaxSuppression'] == 1
    with recorded_integers(result.reference) as integers:
        result.reference(pixels)
    assert names['QuantizeLinear'] == len(integers)  # one per layer and level


@pytest.mark.parametrize(
    'change',
    [nn.Module.half, nn.Module.double, lambda model: model.to(memory_format=torch.channels_last)],
    ids=['half', 'double', 'channels_last'],
)
def test_another_dtype_or_layout_and_layers_in_full_precision(tmp_path, change):
    rules = [{'name': name, 'weight': None} for name in ('conv1', 'up', 'fc')]
    model = small({'preset': 'w4a4', 'rules': rules})
    file = tmp_path / 'model.onnx'
    result = export_model(change(model), file)
    scale = result.reference(IMAGES[0])[0].abs().max().item()
    assert largest_difference(file, result, 'onnxruntime', IMAGES[0]) < 0.02 * scale


def test_the_model_stays_as_it_was(tmp_path):
    model = small('w4a4').train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    export_model(model, tmp_path / 'model.onnx')
    assert model.training and all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert reference_model(model) is not model
