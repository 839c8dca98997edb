"""Whether a model is being traced for a file: then modules emit ONNX nodes in place of their own arithmetic."""

from contextlib import contextmanager
from typing import Iterator

_depth = 0


def is_exporting() -> bool:
    """Returns whether the code runs within :func:`exporting`."""
    return _depth > 0


@contextmanager
def exporting() -> Iterator[None]:
    """Have modules emit nodes; ``torch.onnx.is_in_onnx_export`` knows nothing of ``torch.export``."""
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
