"""An exported file that is ready to run on pictures."""

import os
from pathlib import Path
from typing import NamedTuple

from mmacs.deploy.metadata import Metadata, read_metadata, require_untouched
from mmacs.deploy.packages import require
from mmacs.deploy.runtimes import Runtime, open_model
from mmacs.utils.errors import MmacsError


class ExportedFile(NamedTuple):
    """A file in a runtime, and what it says of itself."""

    runtime: Runtime
    metadata: Metadata


def open_exported(file: os.PathLike, backend: str = 'onnxruntime', threads: int = 0) -> ExportedFile:
    """Open a file that mmacs exported.

    Args:
        file (PathLike): An ONNX file; for OpenVINO also ``.xml``, of which no digest is known.
        backend (str): ``'onnxruntime'`` or ``'openvino'``. Defaults to ``'onnxruntime'``.
        threads (int): Number of threads; 0 takes as many as there are cores. Defaults to 0.

    Raises:
        MmacsError: If it cannot be opened, was not written by mmacs, or was changed since.
    """
    runtime = open_model(file, backend, threads)
    metadata = read_metadata(runtime.metadata, file)
    if Path(file).suffix != '.xml':
        require_untouched(require('onnx').load(file), file)
    if list(runtime.inputs) != ['images']:
        raise MmacsError(f'{file} takes {", ".join(runtime.inputs)}, and not images alone')
    return ExportedFile(runtime, metadata)
