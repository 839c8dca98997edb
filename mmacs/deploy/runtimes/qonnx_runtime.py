"""QONNX's own executor, for files that no runtime reads."""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Dict, Mapping, Sequence, Set

import numpy as np

from mmacs.deploy.packages import require
from mmacs.deploy.runtimes.base import Runtime, Source
from mmacs.utils.errors import MmacsError

if TYPE_CHECKING:
    from onnx import ModelProto


def is_qonnx(model: 'ModelProto') -> bool:
    """Returns whether a model is in the format qonnx: whether it has operators of QONNX's domains."""
    return any(one.domain.partition('.')[0] == 'qonnx' for one in model.opset_import)


class QonnxExecutor(Runtime):
    """Executes a graph node by node, for images of one shape at a time."""

    backend = 'qonnx'

    def __init__(self, source: Source, threads: int) -> None:
        onnx = require('onnx')
        try:
            self.version = version('qonnx')
        except PackageNotFoundError as error:
            raise MmacsError(
                'files of the format qonnx are proven in its own executor: install it with `pip install qonnx`'
            ) from error
        self._model = onnx.load_from_string(source) if isinstance(source, bytes) else onnx.load(source)
        self.inputs = {
            one.name: tuple(size.dim_value or None for size in one.type.tensor_type.shape.dim)
            for one in self._model.graph.input
        }
        self.outputs = tuple(one.name for one in self._model.graph.output)
        self.metadata = {one.key: one.value for one in self._model.metadata_props}

    def integer_layers(self) -> Set[str]:
        """Returns no name: all is computed in floats."""
        return set()

    def _run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> Dict[str, np.ndarray]:
        wrapper = require('qonnx.core.modelwrapper').ModelWrapper(self._model, make_deepcopy=True)
        for name, value in inputs.items():
            wrapper.set_tensor_shape(name, list(value.shape))
        wrapper = wrapper.transform(require('qonnx.transformation.infer_shapes').InferShapes())
        found = require('qonnx.core.onnx_exec').execute_onnx(wrapper, dict(inputs))
        return {name: found[name] for name in outputs}


RUNTIME = QonnxExecutor
