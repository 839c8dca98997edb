"""Small quantized graphs in the form that exported files have, written by hand."""

from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mmacs.deploy.metadata import Metadata, write_metadata

ZERO = np.uint8(0)


class GraphBuilder:
    """Collects nodes and initializers of one graph."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: List[onnx.NodeProto] = []
        self.initializers: List[onnx.TensorProto] = []
        self.rng = np.random.default_rng(seed)

    def constant(self, name: str, value: np.ndarray) -> str:
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str, name: Optional[str] = None, **attributes) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=name or f'node_{output}', **attributes))
        return output

    def quantize(self, x: str, name: str, step: float, bits: int = 4, call: int = 0, zero: np.generic = ZERO) -> str:
        """Quantize -> Clip -> Dequantize; the value of the integers is named ``<name>#<call>``."""
        integers = f'{name}#{call}'
        scale = self.constant(f'{integers}.step', np.asarray(step, np.float32))
        point = self.constant(f'{integers}.zero_point', np.full(np.shape(step), zero))
        axis = dict(axis=1) if np.shape(step) else {}
        if bits == 8:
            self.node('QuantizeLinear', [x, scale, point], integers, **axis)
        else:
            self.node('QuantizeLinear', [x, scale, point], f'{integers}.unclipped', **axis)
            lowest = int(zero) - 2 ** (bits - 1) if zero == 128 else 0
            low = self.constant(f'{integers}.low', np.asarray(lowest, zero.dtype))
            high = self.constant(f'{integers}.high', np.asarray(lowest + 2**bits - 1, zero.dtype))
            self.node('Clip', [f'{integers}.unclipped', low, high], integers)
        return self.node('DequantizeLinear', [integers, scale, point], f'{integers}.values', **axis)

    def convolution(
        self, x: str, name: str, out: int, into: int, form: str = 'dequantize', bits: int = 4, group: int = 1
    ) -> str:
        """A 3x3 convolution whose weight is stored in integers, or in floats (``form='float'``)."""
        weight = f'{name}.weight'
        out, into = out, into // group
        if form == 'float':
            self.constant(weight, self.rng.normal(size=(out, into, 3, 3)).astype(np.float32) / 9)
            dequantized = weight
        else:
            top = 2 ** (bits - 1) - 1
            levels = self.rng.integers(-top, top + 1, (out, into, 3, 3))
            dtype = TensorProto.INT4 if bits <= 4 else TensorProto.INT8
            packed = helper.make_tensor(weight, dtype, levels.shape, levels.ravel().tolist())
            self.initializers.append(packed)
            scales = (self.rng.uniform(0.5, 1, out) / (3 * top * into)).astype(np.float32)
            if form == 'dequantize':
                scale = self.constant(f'{weight}.scale', scales)
                integers = self._int8(weight, bits)
                zero = self.constant(f'{weight}.zero_point', np.zeros(out, np.int8))
                dequantized = self.node('DequantizeLinear', [integers, scale, zero], f'{weight}.values', axis=0)
            else:  # of a convolution whose output stays float
                scale = self.constant(f'{weight}.scale', scales.reshape(-1, 1, 1, 1))
                integers = self._int8(weight, bits)
                floats = self.node('Cast', [integers], f'{weight}.float', to=TensorProto.FLOAT)
                dequantized = self.node('Mul', [floats, scale], f'{weight}.values')
        bias = self.constant(f'{name}.bias', self.rng.normal(size=out).astype(np.float32) * 0.1)
        return self.node('Conv', [x, dequantized, bias], f'{name}.output', name, pads=[1, 1, 1, 1], group=group)

    def _int8(self, weight: str, bits: int) -> str:
        return weight if bits > 4 else self.node('Cast', [weight], f'{weight}.int8', to=TensorProto.INT8)

    def model(
        self, outputs: Dict[str, Tuple[int, Sequence]], shape: Sequence = (None, 3, None, None)
    ) -> onnx.ModelProto:
        images = helper.make_tensor_value_info('images', TensorProto.FLOAT, shape)
        made = [helper.make_tensor_value_info(name, kind, size) for name, (kind, size) in outputs.items()]
        graph = helper.make_graph(self.nodes, 'small', [images], made, self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 21)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        return model


def residual_graph(bits: int = 4) -> onnx.ModelProto:
    """A stem in floats, a residual block, two heads on one tensor: each reason to stay in floats, once."""
    g = GraphBuilder()
    scaled = g.node('Mul', ['images', g.constant('pixel_scale', np.float32(1 / 64))], 'scaled')
    stem = g.node('Relu', [g.convolution(scaled, 'stem', 8, 3, 'float')], 'stem.relu')
    x = g.quantize(stem, 'conv1.input_quantizer', 0.25, bits)
    y = g.node('Relu', [g.convolution(x, 'conv1', 8, 8, bits=bits)], 'conv1.relu')
    y = g.quantize(y, 'conv2.input_quantizer', 0.1, bits)
    y = g.convolution(y, 'conv2', 8, 8, 'multiply', bits)
    added = g.node('Relu', [g.node('Add', [y, stem], 'sum')], 'sum.relu')
    x = g.quantize(added, 'neck.input_quantizer', 0.25, bits)
    shared = g.node('Relu', [g.convolution(x, 'neck', 8, 8, 'multiply', bits)], 'neck.relu')
    a = g.quantize(shared, 'head.cls.input_quantizer', 0.1, bits)
    b = g.quantize(shared, 'head.reg.input_quantizer', 0.15, bits)
    g.node('Identity', [g.convolution(a, 'head.cls', 4, 8, 'multiply', bits)], 'cls_score_0')
    g.node('Identity', [g.convolution(b, 'head.reg', 4, 8, 'multiply', bits)], 'bbox_pred_0')
    shape = ('batch', 4, 'height', 'width')
    return g.model({'cls_score_0': (TensorProto.FLOAT, shape), 'bbox_pred_0': (TensorProto.FLOAT, shape)})


def described(model: onnx.ModelProto, **values) -> onnx.ModelProto:
    """Metadata as exported files have them."""
    write_metadata(model, Metadata(**values))
    return model


def detector_graph(rows: int = 150, shape: Sequence = (None, 3, None, None), **values) -> onnx.ModelProto:
    """Finds ``rows`` boxes of 8 x 4 pixels in each image that is not all black, none in others."""
    g = GraphBuilder()
    x = np.arange(rows, dtype=np.float32)
    corners = np.stack([x, x / 2, x + 8, x / 2 + 4], axis=1)
    brightest = g.node('ReduceMax', ['images', g.constant('axes', np.array([1, 2, 3]))], 'brightest', keepdims=0)
    bright = g.node('Greater', [brightest, g.constant('nothing', np.float32(0))], 'bright')
    found = g.node('Cast', [bright], 'found', to=TensorProto.FLOAT)
    found = g.node('Unsqueeze', [found, g.constant('one', np.array([1]))], 'found.column')
    g.node('Mul', [found, g.constant('best', np.linspace(0.9, 0.1, rows, dtype=np.float32)[None])], 'scores')
    column = g.node('Unsqueeze', [found, g.constant('two', np.array([2]))], 'found.cube')
    g.node('Mul', [column, g.constant('corners', corners[None])], 'boxes')
    labels = g.node('Mul', [found, g.constant('kinds', (x % 3)[None])], 'labels.float')
    g.node('Cast', [labels], 'labels', to=TensorProto.INT64)
    outputs = {
        'boxes': (TensorProto.FLOAT, (shape[0], rows, 4)),
        'scores': (TensorProto.FLOAT, (shape[0], rows)),
        'labels': (TensorProto.INT64, (shape[0], rows)),
    }
    model = g.model(outputs, shape=shape)
    return described(model, **{'task': 'detection', 'classes': ['a', 'b', 'c'], **values})


def classifier_graph(**values) -> onnx.ModelProto:
    """Scores three classes by the brightness of the three channels."""
    g = GraphBuilder()
    means = g.node('ReduceMean', ['images', g.constant('axes', np.array([2, 3]))], 'means', keepdims=0)
    g.node('Softmax', [means], 'scores', axis=1)
    model = g.model({'scores': (TensorProto.FLOAT, (None, 3))})
    return described(model, **{'task': 'classification', 'classes': ['blue', 'green', 'red'], **values})
