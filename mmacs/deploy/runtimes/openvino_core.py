"""OpenVINO's core: one for the whole process."""

from functools import cache
from typing import Any

from mmacs.deploy.packages import require


@cache
def core() -> Any:
    """Returns the core, an ``openvino.Core``, which is kept to the end of the process.

    OpenVINO's CPU plugin, of which each core has one, sets the stack on which signals are handled, and frees it with
    the core. After two cores, the process is left with a stack that is freed, and the next signal kills it, such as
    that of a data worker's end.

    Raises:
        MmacsError: If OpenVINO is missing.
    """
    return require('openvino').Core()
