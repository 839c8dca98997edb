"""An exported file that is ready to run on pictures."""

import os
from pathlib import Path
from typing import NamedTuple, Optional

from mmacs.deploy.metadata import Metadata, read_metadata, require_untouched
from mmacs.deploy.packages import require
from mmacs.deploy.runtimes import Runtime, open_model
from mmacs.utils.errors import MmacsError


class ExportedFile(NamedTuple):
    """A file in a runtime, and what it says of itself."""

    runtime: Runtime
    metadata: Metadata


def open_exported(file: os.PathLike, backend: Optional[str] = None, threads: int = 0) -> ExportedFile:
    """Open a file that mmacs exported.

    Args:
        file (PathLike): An ONNX file; for OpenVINO also ``.xml``, of which no digest is known.
        backend (str, optional): ``'onnxruntime'`` or ``'openvino'``. Defaults to that which the suffix is for.
        threads (int): Number of threads; 0 takes as many as there are cores. Defaults to 0.

    Raises:
        MmacsError: If it cannot be opened, was not written by mmacs, or was changed since.
    """
    is_openvinos = Path(file).suffix == '.xml'
    runtime = open_model(file, backend or ('openvino' if is_openvinos else 'onnxruntime'), threads)
    metadata = read_metadata(runtime.metadata, file)
    if not is_openvinos:
        require_untouched(require('onnx').load(file), file)
    if list(runtime.inputs) != ['images']:
        raise MmacsError(f'{file} takes {", ".join(runtime.inputs)}, and not images alone')
    return ExportedFile(runtime, metadata)
