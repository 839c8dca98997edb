"""OpenVINO's own format: ``.xml`` with the graph, ``.bin`` beside it with the weights."""

from pathlib import Path
from typing import TYPE_CHECKING

from mmacs.deploy.packages import require
from mmacs.deploy.runtimes.openvino_core import core
from mmacs.utils.files import atomic_path

if TYPE_CHECKING:
    from onnx import ModelProto


def write_ir(model: 'ModelProto', file: Path) -> None:
    """Write an ONNX model for OpenVINO; its metadata become those of the file.

    Args:
        model (ModelProto): The model.
        file (Path): The ``.xml``; the ``.bin`` takes its name.

    Raises:
        MmacsError: If OpenVINO is missing, or a file can't be written.
    """
    made = core().read_model(model.SerializeToString())
    for each in model.metadata_props:
        made.set_rt_info(each.value, ['framework', each.key])
    with atomic_path(file.with_suffix('.bin')) as weights, atomic_path(file) as graph:
        require('openvino').serialize(made, str(graph), str(weights))
