"""OpenVINO, on the CPU."""

from typing import Any, Dict, Mapping, Sequence, Set

import numpy as np

from mmacs.deploy.packages import require
from mmacs.deploy.runtimes.base import Runtime, Source
from mmacs.deploy.runtimes.openvino_core import core

_LAYERS = ('Convolution', 'Deconvolution', 'FullyConnected', 'MatMul')


class OpenVino(Runtime):
    """A compiled model of OpenVINO."""

    backend = 'openvino'

    def __init__(self, source: Source, threads: int) -> None:
        self.version = require('openvino').__version__.partition('-')[0]
        model = core().read_model(source)
        # without the hint, a CPU that has bfloat16 computes what is not quantized in it
        settings = {'INFERENCE_PRECISION_HINT': 'f32', 'PERFORMANCE_HINT': 'LATENCY', 'NUM_STREAMS': 1}
        if threads:
            settings['INFERENCE_NUM_THREADS'] = threads
        self._compiled = core().compile_model(model, 'CPU', settings)
        self._request = self._compiled.create_infer_request()
        self.inputs = {
            one.get_any_name(): tuple(None if size.is_dynamic else size.get_length() for size in one.partial_shape)
            for one in self._compiled.inputs
        }
        self.outputs = tuple(_name(one) for one in self._compiled.outputs)
        self._places = {name: place for place, name in enumerate(self.outputs)}
        self.metadata = {
            key: str(value.astype(str)) for key, value in dict(model.get_rt_info().items()).get('framework', {}).items()
        }

    def integer_layers(self) -> Set[str]:
        """Returns the names of the nodes that are computed in integers, by the kernels that were chosen."""
        found: Set[str] = set()
        for node in self._compiled.get_runtime_model().get_ordered_ops():
            about = node.get_rt_info()
            if _text(about, 'layerType') in _LAYERS and _text(about, 'primitiveType').endswith('I8'):
                found.update(name.partition('/')[0] for name in _text(about, 'originalLayersNames').split(','))
        return found

    def _run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> Dict[str, np.ndarray]:
        self._request.infer({name: np.ascontiguousarray(value) for name, value in inputs.items()})
        places = {name: self._places[name] for name in outputs}
        return {name: self._request.get_output_tensor(place).data.copy() for name, place in places.items()}


def _name(output: Any) -> str:
    """The name in the file: of a value that passes unchanged through several nodes, there are others."""
    name = output.node.get_friendly_name().removesuffix('/sink_port_0')
    return name if name in output.get_names() else output.get_any_name()


def _text(about: Mapping[str, Any], key: str) -> str:
    return str(about[key].astype(str)) if key in about else ''


RUNTIME = OpenVino
