"""Which layers run in integers, and why the others don't: what is expected of a graph is what runtimes do."""

from functools import partial

import numpy as np
import pytest
from onnx import TensorProto, helper

from mmacs.deploy.proof import integer_layers, weights
from mmacs.deploy.proof.integer_layers import layers_of
from mmacs.deploy.runtimes import BACKENDS, open_model
from tests.test_deploy.graphs import ZERO, GraphBuilder, residual_graph

SIGNED, INT8 = np.uint8(128), np.int8(0)


def build(make, bits=4, zero=ZERO, step=16.0, rank=4):
    """A graph of a quantized image, a convolution, what comes between, and a quantizer."""
    g = GraphBuilder()
    out = make(g, g.quantize('images', 'a.input_quantizer', step, bits, zero=zero))
    g.node('Identity', [out], 'out')
    return g.model({'out': (TensorProto.FLOAT, [None] * rank)})


def relu(g, x, form='dequantize', **settings):
    return g.node('Relu', [g.convolution(x, 'a', 3, 3, form, **settings)], 'relu')


def quantized(g, x, step=0.1, **settings):
    return g.quantize(x, 'b.input_quantizer', step, **settings)


def silu(g, x):
    x = g.convolution(x, 'a', 3, 3)
    return g.node('Mul', [x, g.node('Sigmoid', [x], 'sigmoid')], 'silu')


def clip(g, x, high=6.0):
    bounds = g.constant('low', np.float32(0)), g.constant('high', np.float32(high))
    return g.node('Clip', [g.convolution(x, 'a', 3, 3), *bounds], 'clipped')


def pool(g, x, kind='MaxPool'):
    return g.node(kind, [x], 'pooled', kernel_shape=[3, 3], strides=[2, 2])


def resize(g, x):
    scales = g.constant('scales', np.array([1, 1, 2, 2], np.float32))
    return g.node('Resize', [x, '', scales], 'resized', mode='nearest')


def linear(g, x, kind, with_zero_point=True):
    x = g.node('ReduceMean', [x, g.constant('axes', np.array([2, 3]))], 'means', keepdims=0)
    x = g.quantize(x, 'fc.input_quantizer', 1.0)
    levels = g.rng.integers(-7, 8, (8, 3))
    g.initializers.append(helper.make_tensor('fc.weight', TensorProto.INT4, levels.shape, levels.ravel().tolist()))
    scale, zero = g.constant('fc.scale', np.full(8, 0.1, np.float32)), g.constant('fc.zero', np.zeros(8, np.int8))
    integers = g.node('Cast', ['fc.weight'], 'fc.int8', to=TensorProto.INT8)
    inputs = [integers, scale, zero] if with_zero_point else [integers, scale]
    weight = g.node('DequantizeLinear', inputs, 'fc.values', axis=0)
    bias = g.constant('fc.bias', np.ones(8, np.float32))
    if kind == 'Gemm':
        return g.node('Gemm', [x, weight, bias], 'fc.output', 'fc', transB=1)
    product = g.node('MatMul', [x, g.node('Transpose', [weight], 'fc.turned', perm=[1, 0])], 'fc.product', 'fc')
    return g.node('Add', [product, bias], 'fc.output')


def tokens(g, x):
    x = g.node('Reshape', [x, g.constant('shape', np.array([0, -1, 3]))], 'tokens')
    levels = g.rng.integers(-7, 8, (3, 8)).astype(np.int8)
    inputs = g.constant('fc.weight', levels), g.constant('fc.scale', np.full(8, 0.1, np.float32))
    return g.node('MatMul', [x, g.node('DequantizeLinear', inputs, 'fc.values', axis=1)], 'fc.output', 'fc')


def attention(g, x, joined=False, in_floats=False):
    """A product of two results, quantized ones or floats."""
    x = g.node('Reshape', [x, g.constant('shape', np.array([0, -1, 3]))], 'tokens')
    y = g.node('Sqrt', [x], 'keys')
    y = g.node('Concat', [y, y], 'joined keys', axis=1) if joined else g.node('Mul', [y, y], 'squares')
    x = g.node('Sqrt', [x], 'queries') if in_floats else x
    return g.node('MatMul', [x, g.node('Transpose', [y], 'turned keys', perm=[0, 2, 1])], 'product', 'product')


def turned(g, x, bits):
    """A weight whose output channels are multiplied by 1 and -1, as BatchNorms with negative scales do."""
    signs = g.constant('signs', np.array([1, -1, 1], np.int32).reshape(3, 1, 1, 1))
    output = relu(g, x, bits=bits)
    (dequantize,) = [node for node in g.nodes if node.op_type == 'DequantizeLinear' and node.input[0].startswith('a.w')]
    made = GraphBuilder()
    made.node('Cast', ['a.weight'], 'wide', to=TensorProto.INT32)
    made.node('Mul', ['wide', signs], 'turned')
    made.node('Cast', ['turned'], 'narrow', to=TensorProto.INT8)
    dequantize.input[0] = 'narrow'
    place = g.nodes.index(dequantize)
    g.nodes[place:place] = made.nodes
    return output


def transposed(g, x, group):
    levels = g.rng.integers(-7, 8, (3, 6 // group, 2, 2)).astype(np.int8)
    inputs = g.constant('up.weight', levels), g.constant('up.scale', np.float32(0.1))
    weight = g.node('DequantizeLinear', inputs, 'up.values')
    return g.node('ConvTranspose', [x, weight], 'up.output', 'up', strides=[2, 2], group=group)


def sum_of(g, x, y):
    return g.node('Add', [x, y], 'sum')


FOLLOWED = {
    'relu': lambda g, x: quantized(g, relu(g, x)),
    'signed': lambda g, x: quantized(g, g.convolution(x, 'a', 3, 3), zero=SIGNED),
    'relu signed': lambda g, x: quantized(g, relu(g, x), zero=SIGNED),
    'silu': lambda g, x: quantized(g, silu(g, x)),
    'clip': lambda g, x: quantized(g, clip(g, x)),
    'clip that cuts nothing': lambda g, x: quantized(g, clip(g, x), 0.01),
    'leaky': lambda g, x: quantized(g, g.node('LeakyRelu', [g.convolution(x, 'a', 3, 3)], 'leaky')),
    'max pool': lambda g, x: quantized(g, pool(g, relu(g, x))),
    'max pool that is read twice': lambda g, x: sum_of(g, quantized(g, y := pool(g, relu(g, x))), y),
    'average pool': lambda g, x: quantized(g, pool(g, relu(g, x), 'AveragePool')),
    'resized': lambda g, x: quantized(g, resize(g, relu(g, x))),
    'depthwise': lambda g, x: quantized(g, relu(g, x, group=3)),
    'range per channel behind': lambda g, x: quantized(g, relu(g, x), np.array([0.1, 0.11, 0.12])),
    'addition': lambda g, x: quantized(g, sum_of(g, g.convolution(x, 'a', 3, 3), x)),
    'quantized addition': lambda g, x: sum_of(g, quantized(g, g.convolution(x, 'a', 3, 3), bits=8, zero=SIGNED), x),
    'concatenation': lambda g, x: quantized(g, g.node('Concat', [relu(g, x), x], 'joined', axis=1)),
    'max pool before': lambda g, x: quantized(g, relu(g, pool(g, x))),
    'resized before': lambda g, x: quantized(g, relu(g, resize(g, x))),
    'float weight': lambda g, x: relu(g, x, 'float'),
    'float output': lambda g, x: relu(g, x, 'multiply'),
    'read in floats too': lambda g, x: sum_of(g, quantized(g, y := relu(g, x)), y),
    'linear': lambda g, x: g.quantize(linear(g, x, 'Gemm'), 'last', 1.0),
    'linear prediction': lambda g, x: linear(g, x, 'Gemm'),
    'linear without a zero point': lambda g, x: g.quantize(linear(g, x, 'Gemm', False), 'last', 1.0),
    'product without a zero point': lambda g, x: g.quantize(linear(g, x, 'MatMul', False), 'last', 1.0),
    'product': lambda g, x: g.quantize(linear(g, x, 'MatMul'), 'last', 1.0),
    'product prediction': lambda g, x: linear(g, x, 'MatMul'),
    'transposed convolution': lambda g, x: quantized(g, transposed(g, x, 1)),
    'transposed convolution in groups': lambda g, x: quantized(g, transposed(g, x, 3)),
    'tokens': lambda g, x: g.node('Neg', [tokens(g, x)], 'negative'),
    'tokens with a bias': lambda g, x: g.node('Add', [tokens(g, x), g.constant('bias', np.ones(8, np.float32))], 'sum'),
    'tokens times their own': lambda g, x: g.node('Neg', [attention(g, x)], 'negative'),
    'tokens times joined ones': lambda g, x: g.node('Neg', [attention(g, x, joined=True)], 'negative'),
    'tokens in floats times joined ones': lambda g, x: g.node('Neg', [attention(g, x, True, True)], 'negative'),
    'turned int8 weight': lambda g, x: quantized(g, turned(g, x, 8)),
    'turned int4 weight': lambda g, x: quantized(g, turned(g, x, 4)),
    'int8 weight': lambda g, x: quantized(g, relu(g, x, bits=8)),
    'int8 weight, float output': lambda g, x: relu(g, x, 'multiply', bits=8),
}


def _rank(name):
    return 2 if name.startswith(('linear', 'product')) else 3 if name.startswith('tokens') else 4


GRAPHS = {name: partial(build, make, rank=_rank(name)) for name, make in FOLLOWED.items()}
GRAPHS['range per channel'] = lambda: build(
    lambda g, x: quantized(g, relu(g, x, group=3)), step=np.array([16.0, 17, 18])
)
GRAPHS['int8'] = lambda: build(lambda g, x: quantized(g, g.convolution(x, 'a', 3, 3), bits=8, zero=INT8), 8, INT8)
GRAPHS['int8 relu'] = lambda: build(lambda g, x: quantized(g, relu(g, x, bits=8), bits=8, zero=INT8), 8, INT8)
GRAPHS['residual block'] = residual_graph


@pytest.mark.parametrize('name', GRAPHS)
def test_what_is_expected_is_what_runtimes_do(name):
    model = GRAPHS[name]()
    layers = layers_of(model)
    for backend in BACKENDS:
        counted = open_model(model.SerializeToString(), backend, 1).integer_layers()
        found = {layer.node for layer in layers if layer.is_among(counted)}
        assert found == {layer.node for layer in layers if backend not in layer.reasons}, backend


def test_each_layer_says_why_it_is_computed_in_floats():
    layers = layers_of(residual_graph())
    assert {layer.name: layer.reasons.get('onnxruntime') for layer in layers} == {
        'stem': integer_layers.FULL_PRECISION,
        'conv1': None,
        'conv2': integer_layers.ADDITION,
        'neck': integer_layers.TWO_QUANTIZERS,
        'head.cls': integer_layers.PREDICTION,
        'head.reg': integer_layers.PREDICTION,
    }
    assert {layer.name for layer in layers if 'openvino' in layer.reasons} == {'stem'}
    (why,) = [layer.reasons['onnxruntime'] for layer in layers_of(GRAPHS['silu']()) if layer.reasons]
    assert why == 'its output stays float before an activation function (SiLU)'
    found = integer_layers.summary(layers, 'onnxruntime', {'conv1', 'conv2', 'some node'})
    assert (found['layers'], found['integer'], found['expected']) == (6, 2, 1)
    assert found['float'][integer_layers.PREDICTION] == ['head.cls', 'head.reg']


def test_data_types_of_the_weights():
    found = weights.weights_of(residual_graph())
    assert {one.layers[0]: one.kind for one in found if one.kind != 'INT4'} == {'stem': 'FLOAT'}
    by_kind = weights.summary(found)
    assert by_kind['INT4']['weights'] == 5
    assert by_kind['INT4']['values'] == 3 * 8 * 8 * 9 + 2 * 4 * 8 * 9
    assert by_kind['FLOAT']['bytes'] == 4 * 8 * 3 * 9
    assert weights.floats_in_place_of_integers(found, ['conv1', 'head.reg']) == []
    assert weights.floats_in_place_of_integers(found, ['stem', 'head.reg']) == ['stem']
