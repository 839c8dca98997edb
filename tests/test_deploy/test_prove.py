"""The proof of a file against its reference and the simulation, and its report."""

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from mmacs.cli.exporting import metric_failures, metric_warnings
from mmacs.deploy.benchmark import float_content
from mmacs.deploy.export import exported
from mmacs.deploy.modules.activation import Quantize, recorded_integers
from mmacs.deploy.proof.integer_layers import layers_of
from mmacs.deploy.proof.outputs import OutputDifference
from mmacs.deploy.proof.prove import prove
from mmacs.deploy.proof.report import float_size, machine, page_of, report_files, rows_of, table_of, write_report
from mmacs.deploy.runtimes import BACKENDS, open_model
from mmacs.utils.errors import MmacsError
from tests.test_deploy.models import Small, quantized, with_random_norms

SEEDED = torch.Generator().manual_seed(0)
IMAGES = [torch.rand(1, 3, 16, 20, generator=SEEDED), torch.rand(2, 3, 24, 16, generator=SEEDED)]


@pytest.fixture(scope='module')
def result():
    torch.manual_seed(0)
    model = with_random_norms(Small()).eval()
    return exported(quantized(model, 'w4a4', [torch.rand(4, 3, 16, 16)]), shape=(16, 24))


@pytest.fixture(scope='module')
def proof(result):
    return prove(result.model, result.reference, result.simulation, IMAGES)


def full_report(result, proof):
    report = {'file': 'some/model.onnx', 'about': machine(), **proof.plain()}
    report['sizes'] = {'file': result.model.ByteSize(), 'float32': float_size(result.model)}
    return report


def test_a_file_reaches_every_bar(result, proof):
    assert proof.failures == [] and proof.images == 3 and proof.shapes == [[16, 20], [24, 16]]
    assert proof.float_weights == [] and proof.weights['INT4']['weights'] >= 5
    layers = layers_of(result.model)
    for backend in BACKENDS:
        one = proof.runtimes[backend]
        assert one['integers']['equal'] >= 0.9999 and one['integers']['layers'].keys() >= {'conv2.input_quantizer'}
        assert one['layers']['integer'] == one['layers']['expected'] > 0
        assert sum(map(len, one['layers']['float'].values())) == len(layers) - one['layers']['integer']
        assert (
            one['outputs']['output_largest' if 'output_largest' in one['outputs'] else 'output_difference_largest'] < 1
        )
    assert proof.simulation['integers']['integers'] == proof.runtimes['openvino']['integers']['integers'] > 10_000


def test_a_file_that_was_changed_fails_in_the_layer_that_was(result):
    model = onnx.ModelProto()
    model.CopyFrom(result.model)
    weight = next(
        one for one in model.graph.initializer if 'shared' in one.name and one.data_type == onnx.TensorProto.INT4
    )
    values = -numpy_helper.to_array(weight).astype(int).clip(-7)
    weight.CopyFrom(onnx.helper.make_tensor(weight.name, weight.data_type, values.shape, values.ravel().tolist()))
    failures = prove(model, result.reference, result.simulation, IMAGES[:1]).failures
    assert any(failure.startswith('onnxruntime:') and 'shared' in failure for failure in failures)
    assert any(failure.startswith('openvino:') for failure in failures)
    assert not any('conv2' in failure for failure in failures)


class Refining(nn.Module):
    """A decoder that moves its boxes after the last turn too, where nobody may read them."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.conv, self.move, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), last

    def forward(self, x):
        x = boxes = self.conv(x).relu()
        for _ in range(2):
            found = (x + boxes).relu()
            boxes = self.move(found).relu()
        return boxes if self.last else found


def test_a_file_may_lack_only_what_nobody_reads():
    torch.manual_seed(0)
    batches = [torch.rand(4, 3, 16, 16)]
    made = exported(quantized(Refining(last=False).eval(), 'w4a4', batches), shape=(16, 24))
    with recorded_integers(made.reference) as integers:
        made.reference(IMAGES[0])
    lacking = {name for name in integers if name not in {out for node in made.model.graph.node for out in node.output}}
    assert lacking == {'move.input_quantizer#1'}
    assert prove(made.model, made.reference, made.simulation, IMAGES).failures == []
    for pipeline in (made.reference, made.simulation):
        next(module for module in pipeline.modules() if isinstance(module, Refining)).last = True
    with pytest.raises(MmacsError, match="the exported graph lacks the integers 'move.input_quantizer#1'"):
        prove(made.model, made.reference, made.simulation, IMAGES[:1])


def test_nothing_is_proven_of_nothing(result):
    with pytest.raises(MmacsError, match='needs at least one image'):
        prove(result.model, result.reference, result.simulation, [])
    weights = exported(quantized(nn.Sequential(nn.Conv2d(3, 4, 1)), 'w4a32', IMAGES[:1]))
    with pytest.raises(MmacsError, match='quantizes no activations'):
        prove(weights.model, weights.reference, weights.simulation, IMAGES)


def test_a_simulation_that_is_another_fails(result):
    torch.manual_seed(1)
    other = with_random_norms(Small()).eval()
    other = exported(quantized(other, 'w4a4', [torch.rand(4, 3, 16, 16)]), shape=(16, 24)).simulation
    failures = prove(result.model, result.reference, other, IMAGES[:1], backends=()).failures
    assert [failure for failure in failures if failure.startswith('the reference is up to')] == failures != []


def test_biases_that_move_integers_by_levels_are_no_fault():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1, groups=8), nn.ReLU(), nn.Conv2d(8, 2, 1)]
    recipe = {
        'preset': 'w4a4',
        'rules': [{'name': '2', 'weight': {'bits': 5}}],
    }
    model = quantized(nn.Sequential(*layers).eval(), recipe, [torch.rand(4, 3, 16, 16)])
    model[4].input_quantizer.step.data.mul_(0.025)  # 8 bits, fine beside the products of the few bits before
    made = exported(model, shape=(16, 24))
    assert not any('exact' in one.name for one in made.model.graph.initializer)
    before = made.reference(IMAGES[0])
    proof = prove(made.model, made.reference, made.simulation, IMAGES)
    assert proof.failures == [] and proof.simulation['integers']['apart'] <= 1
    assert proof.simulation['integers']['equal'] > 0.999 > proof.rounding['integers']['worst_equal']
    assert proof.rounding['integers']['apart'] > 1
    assert proof.rounding['integers']['worst_layer'] == '4.input_quantizer'
    torch.testing.assert_close(made.reference(IMAGES[0]), before, atol=0, rtol=0)
    layer = next(module for module in made.reference.modules() if getattr(module, 'name', None) == '2')
    layer.exact_bias_0.add_(1)
    (failure,) = prove(made.model, made.reference, made.simulation, IMAGES[:1], backends=()).failures
    assert failure.endswith('levels from the simulation, in 4.input_quantizer, 1 is allowed')


def test_the_report_says_what_was_found(result, proof, tmp_path):
    report = full_report(result, proof)
    shown = {row.what: row for row in rows_of(report)}
    assert all(row.passed for row in shown.values())
    assert shown['ONNX Runtime: layers in integers'].found.endswith(f'of {len(layers_of(result.model))}')
    assert 'times smaller' in shown['size'].found
    assert table_of(report).row_count == len(shown)
    write_report(report, tmp_path / 'model.onnx')
    files = report_files(tmp_path / 'model.onnx')
    assert [file.name for file in files] == ['model.report.json', 'model.report.html']
    assert json.loads(files[0].read_text())['runtimes'].keys() == set(BACKENDS)
    page = files[1].read_text()
    assert 'Every bar is reached' in page and 'conv2.input_quantizer' in page and 'http' not in page
    report.update(passed=False, failures=['openvino: <b>'])
    assert 'openvino: &lt;b&gt;' in page_of(report)
    assert not {row.what: row for row in rows_of(report)}[
        'OpenVINO against the reference, each layer on its own'
    ].passed


def test_what_was_not_compared_is_no_pass(result, proof, monkeypatch):
    nothing = OutputDifference()
    nothing.add(*[{'boxes': np.zeros((1, 5, 4)), 'scores': np.full((1, 5), 0.04), 'labels': np.zeros((1, 5))}] * 2)
    found = nothing.report()
    monkeypatch.setattr(OutputDifference, 'report', lambda self: found)
    empty = prove(result.model, result.reference, result.simulation, IMAGES[:1], backends=BACKENDS[:1])
    (warning,) = empty.warnings
    assert warning.startswith('boxes and scores were not compared') and 'is the checkpoint trained?' in warning
    assert proof.warnings == [] == empty.failures
    report = full_report(result, empty)
    rows = [{'of': 'onnxruntime', 'value': 0.0, 'passed': True}, {'of': 'openvino', 'value': 0.3, 'passed': False}]
    report['evaluation'] = {'metric': 'AP', 'images': 12, 'simulation': 0.0, 'bar': 0.005, 'rows': rows}
    assert 'AP says nothing about the file' in metric_warnings(report['evaluation'])[0]
    assert metric_warnings({**report['evaluation'], 'simulation': 0.1}) == []
    marks = {row.what: row.mark for row in rows_of(report)}
    whole = [mark for what, mark in marks.items() if what.endswith('as a whole')]
    assert whole == ['nothing compared'] * 3
    assert (marks['AP of ONNX Runtime'], marks['AP of OpenVINO']) == ('nothing compared', 'no')
    page = page_of(report)
    assert 'of what could be compared' in page and 'boxes and scores were not compared' in page
    assert '0 of 0' not in page and table_of(report).row_count == len(marks)


def test_a_metric_that_is_too_far_off_is_no_fault_of_the_integers(result, proof):
    rows = [{'of': 'onnxruntime', 'value': 0.821, 'passed': True}, {'of': 'openvino', 'value': 0.813, 'passed': False}]
    found = {'metric': 'AP', 'simulation': 0.823, 'bar': 0.005, 'rows': rows}
    (failure,) = metric_failures(found)
    assert failure == 'AP of OpenVINO is 0.8130; it is 0.8230 in the simulation, and may differ by 0.005'
    report = {**full_report(result, proof), 'evaluation': found}
    report['failures'] = [failure]
    assert [row.what for row in rows_of(report) if not row.passed] == ['AP of OpenVINO']


def test_the_float_file_is_the_model_without_quantizers(result):
    content = float_content(result, (16, 24))
    model = onnx.load_from_string(content)
    assert not {'QuantizeLinear', 'DequantizeLinear'} & {node.op_type for node in model.graph.node}
    found = open_model(content).run({'images': IMAGES[1].numpy()})
    from mmacs.quantization import disabled

    with disabled(result.simulation), torch.no_grad():
        wanted = result.simulation(IMAGES[1])[0]
    torch.testing.assert_close(torch.from_numpy(found[result.names[0]]), wanted, atol=1e-4, rtol=1e-4)
    assert float_size(result.model) > result.model.ByteSize()


@pytest.mark.parametrize('per_channel', [False, True])
def test_zero_points_of_a_file_for_fpga_flows(per_channel):
    torch.manual_seed(0)
    model = with_random_norms(Small()).eval()
    recipe = {'preset': 'w4a4', 'activation': {'per_channel': per_channel}}
    model = quantized(model, recipe, [torch.rand(4, 3, 16, 16) - 0.3])
    made = exported(model, format='qonnx', shape=(16, 16), fixed_shape=True)
    zero_points = {one.zero_point(0) for one in made.reference.modules() if isinstance(one, Quantize)}
    proof = prove(made.model, made.reference, made.simulation, [torch.rand(1, 3, 16, 16) - 0.3])
    assert len(zero_points) > 1 and proof.failures == []
    assert proof.runtimes['qonnx']['integers']['integers'] > 1_000


def test_a_file_for_fpga_flows_is_executed():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 1)).eval()
    made = exported(quantized(model, 'w4a4', [torch.rand(4, 3, 8, 8)]), format='qonnx', shape=(8, 8), fixed_shape=True)
    proof = prove(made.model, made.reference, made.simulation, [torch.rand(1, 3, 8, 8)])
    assert proof.failures == [] and proof.runtimes.keys() == {'qonnx'}
    assert proof.runtimes['qonnx']['outputs']['output_difference_largest'] < 1e-5
    integers = proof.runtimes['qonnx']['integers']
    assert integers['equal'] == 1 and integers['layers'].keys() == {'0.input_quantizer', '2.input_quantizer'}
    rows = {row.what: row.found for row in rows_of(full_report(made, proof))}
    assert rows['weights'] == '2 FLOAT, whose bits are in Quant nodes'
    assert 'QONNX executor' in page_of(full_report(made, proof))
    bias = next(one for one in made.model.graph.initializer if list(one.dims) == [4])
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 1, bias.name))
    failures = prove(made.model, made.reference, made.simulation, [torch.rand(1, 3, 8, 8)]).failures
    assert failures and all(one.startswith('qonnx: ') for one in failures)
