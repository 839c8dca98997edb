"""What a runtime does: open a file, run it, and tell which layers it computes in integers."""

import os
from importlib import import_module
from pathlib import Path
from typing import Dict, Mapping, Optional, Sequence, Set, Tuple, Union

import numpy as np

from mmacs.deploy.forms import BACKENDS
from mmacs.deploy.packages import require
from mmacs.utils.errors import MmacsError, reason, unknown_name
from mmacs.utils.files import misspelt

# the last executes files of its own format, for the proof
TITLES = {'onnxruntime': 'ONNX Runtime', 'openvino': 'OpenVINO', 'qonnx': 'QONNX executor'}

Source = Union[str, os.PathLike, bytes]


class Runtime:
    """A model that is ready to run, with the runtime's own optimisations, on the CPU in float32 and integers.

    Args:
        source (str, PathLike or bytes): The file, or the content of one in ONNX.
        threads (int): Number of threads; 0 takes as many as there are cores.

    Attributes:
        backend (str): Name of the runtime.
        version (str): Version of the runtime.
        inputs (Dict[str, Tuple]): Shape of each input; sizes that may vary are None.
        outputs (Tuple[str, ...]): Names of the outputs.
        metadata (Dict[str, str]): What the file says of itself.
    """

    backend: str
    version: str
    inputs: Dict[str, Tuple[Optional[int], ...]]
    outputs: Tuple[str, ...]
    metadata: Dict[str, str]

    def __init__(self, source: Source, threads: int) -> None:
        raise NotImplementedError

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Optional[Sequence[str]] = None) -> Dict[str, np.ndarray]:
        """Compute the outputs.

        Args:
            inputs (Mapping[str, np.ndarray]): All inputs, by name.
            outputs (Sequence[str], optional): Names of the outputs that are wanted; all by default.

        Raises:
            MmacsError: If an input is missing, unknown or of a shape that the model was not made for.
        """
        for name in (*inputs, *self.inputs):
            if name not in self.inputs:
                raise unknown_name('input', name, self.inputs)
            if name not in inputs:
                raise MmacsError(f'the model needs the input {name!r}')
            self._check_shape(name, inputs[name].shape)
        for name in outputs or ():
            if name not in self.outputs:
                raise unknown_name('output', name, self.outputs)
        try:
            return self._run(inputs, tuple(outputs or self.outputs))
        except Exception as error:  # each runtime has its own kinds
            shapes = ', '.join(f'{name} of {_size(value.shape)}' for name, value in inputs.items())
            raise MmacsError(f'{self.backend} cannot run the model on {shapes}: {reason(error)}') from error

    def integer_layers(self) -> Set[str]:
        """Returns the names of those nodes of the file (Conv, MatMul, Gemm) that are computed in integers."""
        raise NotImplementedError

    def _run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> Dict[str, np.ndarray]:
        raise NotImplementedError

    def _check_shape(self, name: str, shape: Tuple[int, ...]) -> None:
        wanted = self.inputs[name]
        fits = len(shape) == len(wanted) and all(size in (None, found) for size, found in zip(wanted, shape))
        if not fits:
            raise MmacsError(f'the model takes {name} of shape {_size(wanted)}, got {_size(shape)}')


def open_model(source: Source, backend: str = 'onnxruntime', threads: int = 0) -> Runtime:
    """Open a file in a runtime.

    Args:
        source (str, PathLike or bytes): An ONNX file or the content of one; for OpenVINO also ``.xml``.
        backend (str): ``'onnxruntime'`` or ``'openvino'``. Defaults to ``'onnxruntime'``.
        threads (int): Number of threads; 0 takes as many as there are cores. Defaults to 0.

    Raises:
        MmacsError: If there is no such runtime, it is not installed, or it cannot open the file.
    """
    if backend not in TITLES:
        raise unknown_name('backend', backend, BACKENDS)
    if not isinstance(source, bytes):
        source = Path(source)
        if not source.is_file():
            raise MmacsError(f'there is no exported file {source}{misspelt(source)}')
        if source.suffix == '.xml' and backend != 'openvino':
            raise MmacsError(f"{source} is a file of OpenVINO's: run it with the backend openvino")
    kind = import_module(f'mmacs.deploy.runtimes.{backend}_runtime')
    try:
        return kind.RUNTIME(source, threads)
    except MmacsError:
        raise
    except Exception as error:
        if not isinstance(source, bytes) and source.suffix not in ('.onnx', '.xml'):
            raise MmacsError(f'{source} is no exported file: these end in .onnx, or in .xml for OpenVINO') from error
        what = 'the model' if isinstance(source, bytes) else source
        if _is_qonnx(source):
            raise MmacsError(f'{what} is in the format qonnx, which runtimes do not read: export it in qcdq') from error
        raise MmacsError(f'{backend} cannot open {what}: {reason(error)}') from error


def _is_qonnx(source: Union[Path, bytes]) -> bool:
    """Whether a file, or the content of one, is in the format qonnx; not if it can't be read at all."""
    from mmacs.deploy.runtimes.qonnx_runtime import is_qonnx  # here, since that is built on this module

    try:
        content = source if isinstance(source, bytes) else source.read_bytes()
        return is_qonnx(require('onnx').load_from_string(content))
    except Exception:  # without onnx, or of protobuf's own kinds
        return False


def _size(shape: Sequence[Optional[int]]) -> str:
    return ' x '.join('any' if size is None else str(size) for size in shape)
