"""The cut graph, and the bars on what two computations share."""

import numpy as np
import onnx
import onnx.reference
import pytest
from onnx import numpy_helper

from mmacs.deploy.proof.cut import GIVEN, cut
from mmacs.deploy.proof.equality import Equality
from mmacs.deploy.proof.outputs import OutputDifference
from mmacs.deploy.runtimes import BACKENDS, open_model
from mmacs.utils.errors import MmacsError
from tests.test_deploy.graphs import GraphBuilder, residual_graph

IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 3, 32, 40)).astype(np.float32)


def integers_of(model, names):
    """What the graph itself computes, without optimisations."""
    uncut = onnx.ModelProto()
    uncut.CopyFrom(model)
    uncut.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None) for name in names)
    evaluator = onnx.reference.ReferenceEvaluator(uncut)
    return dict(zip(names, evaluator.run(list(names), {'images': IMAGES})))


@pytest.fixture(scope='module')
def known():
    model = residual_graph(8)
    cut_model, names = cut(model)
    return cut_model, integers_of(model, names)


def compare(model, integers, backend='onnxruntime'):
    given = {GIVEN + name: value for name, value in integers.items()}
    equality = Equality()
    equality.add(
        integers, open_model(model.SerializeToString(), backend, 1).run({'images': IMAGES, **given}, [*integers])
    )
    return equality


@pytest.mark.parametrize('backend', BACKENDS)
def test_each_layer_is_fed_the_integers_that_are_given(known, backend):
    model, integers = known
    assert list(integers) == [
        'conv1.input_quantizer#0',
        'conv2.input_quantizer#0',
        'neck.input_quantizer#0',
        'head.cls.input_quantizer#0',
        'head.reg.input_quantizer#0',
    ]
    runtime = open_model(model.SerializeToString(), backend, 1)
    given = {GIVEN + name: value for name, value in integers.items()}
    given[GIVEN + 'conv1.input_quantizer#0'] = np.zeros_like(integers['conv1.input_quantizer#0'])
    found = runtime.run({'images': IMAGES, **given})
    same = {name for name in integers if (np.abs(found[name].astype(int) - integers[name]) <= 1).mean() > 0.999}
    assert same == set(integers) - {'conv2.input_quantizer#0'}  # the layer that was given something else


@pytest.mark.parametrize('backend', BACKENDS)
def test_a_changed_weight_does_not_reach_the_bars(known, backend):
    model, integers = known
    before = compare(model, integers, backend)
    assert before.overall().apart <= 1
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    (weight,) = [one for one in changed.graph.initializer if one.name == 'conv2.weight']
    values = numpy_helper.to_array(weight)
    values = -values
    weight.CopyFrom(onnx.helper.make_tensor('conv2.weight', weight.data_type, values.shape, values.ravel().tolist()))
    after = compare(changed, integers, backend)
    assert after.worst() == 'neck.input_quantizer'
    assert any('neck.input_quantizer' in failure for failure in after.failures())
    assert not any('head' in failure for failure in after.failures())


def test_bars():
    values = np.zeros(20_000, np.uint8)
    equal, share, layer, far = values.copy(), values.copy(), values.copy(), values.copy()
    share[:3], layer[:30], far[0] = 1, 1, 2
    failures = {}
    for name, found in {'equal': equal, 'share': share, 'layer': layer, 'far': far}.items():
        equality = Equality()
        equality.add({'a#0': values, 'a#1': values[:7]}, {'a#0': found, 'a#1': values[:7]})
        failures[name] = equality.failures()
    assert failures['equal'] == []
    assert failures['share'] == ['99.9850% of all integers are equal, 99.99% are wanted']
    assert failures['layer'][1] == '99.850% of the integers of a are equal, 99.9% are wanted'
    assert failures['far'] == ['integers of a are up to 2 levels apart, 1 is allowed']


def test_integers_that_one_side_lacks_are_refused():
    with pytest.raises(MmacsError, match="the exported graph lacks the integers 'a#1'"):
        Equality().add({'a#0': np.zeros(1), 'a#1': np.zeros(1)}, {'a#0': np.zeros(1)})
    with pytest.raises(MmacsError, match='the shape'):
        Equality().add({'a#0': np.zeros(2)}, {'a#0': np.zeros(1)})


def test_a_graph_without_our_names_is_refused():
    g = GraphBuilder()
    g.node('Relu', ['images'], 'out')
    with pytest.raises(MmacsError, match='no quantized activations'):
        cut(g.model({'out': (onnx.TensorProto.FLOAT, [None] * 4)}))


def detections(boxes, scores, labels):
    return dict(boxes=np.array([boxes], np.float32), scores=np.array([scores], np.float32), labels=np.array([labels]))


def test_matched_detections():
    expected = detections([[0, 0, 10, 10], [20, 20, 40, 40], [0, 0, 0, 0]], [0.9, 0.5, 0.0], [1, 2, 0])
    found = detections([[20, 20, 41, 40], [0, 0, 10, 9], [0, 0, 10, 10]], [0.4, 0.8, 0.7], [2, 1, 2])
    difference = OutputDifference()
    difference.add(expected, found)
    report = difference.report()
    assert (report['images'], report['detections'], report['matched']) == (1, 2, 2)
    assert report['box_difference_largest'] == pytest.approx(1)
    assert report['score_difference_median'] == pytest.approx(0.1)
    other = OutputDifference()
    other.add(expected, detections([[0, 0, 4, 10]], [0.9], [1]))
    assert (other.report()['matched'], other.report()['box_difference_largest']) == (0, 0)


def test_class_scores():
    difference = OutputDifference()
    difference.add({'scores': np.array([[0.1, 0.9], [0.6, 0.4]])}, {'scores': np.array([[0.2, 0.8], [0.4, 0.6]])})
    assert difference.report()['same_class'] == 1
    assert difference.report()['score_difference_largest'] == pytest.approx(0.2)
