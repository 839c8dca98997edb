"""ONNX Runtime, on its CPU provider."""

import re
import tempfile
from pathlib import Path
from typing import Any, Dict, Mapping, Sequence, Set

import numpy as np

from mmacs.deploy.packages import require
from mmacs.deploy.runtimes.base import Runtime, Source

_FATAL = 4  # severity of the log: errors are raised as well
_INTEGER = ('QLinearConv', 'QLinearMatMul', 'QGemm', 'ConvInteger', 'MatMulInteger', 'MatMulIntegerToFloat')
_INTEGER += ('DynamicQuantizeMatMul',)
_UNIQUE = re.compile(r'(_token_\d+|_quant|_nchwc)+$')  # put behind names of nodes while a graph is optimized


class OnnxRuntime(Runtime):
    """A session of ONNX Runtime."""

    backend = 'onnxruntime'

    def __init__(self, source: Source, threads: int) -> None:
        package = require('onnxruntime')
        self.version = package.__version__
        self._source = source if isinstance(source, bytes) else str(source)
        self._session = self._open(threads)
        self.inputs = {
            one.name: tuple(size if isinstance(size, int) else None for size in one.shape)
            for one in self._session.get_inputs()
        }
        self.outputs = tuple(one.name for one in self._session.get_outputs())
        self.metadata = dict(self._session.get_modelmeta().custom_metadata_map)

    def integer_layers(self) -> Set[str]:
        """Returns the names of the nodes that are computed in integers, from the graph as it was optimized."""
        onnx = require('onnx')
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / 'optimized.onnx'
            self._open(1, optimized_model_filepath=str(file))
            nodes = onnx.load(file).graph.node
        return {_UNIQUE.sub('', node.name.partition('/')[0]) for node in nodes if node.op_type in _INTEGER}

    def _run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> Dict[str, np.ndarray]:
        return dict(zip(outputs, self._session.run(list(outputs), dict(inputs))))

    def _open(self, threads: int, **options: Any) -> Any:
        package = require('onnxruntime')
        settings = package.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.log_severity_level = _FATAL
        for name, value in options.items():
            setattr(settings, name, value)
        return package.InferenceSession(self._source, settings, providers=['CPUExecutionProvider'])


RUNTIME = OnnxRuntime
