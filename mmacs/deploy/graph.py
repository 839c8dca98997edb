"""From a module to a clean ONNX graph, in which quantization still stands as nodes of ours.

``mmacs::Quantize`` and ``mmacs::Weight`` say what is meant, see :mod:`.modules`; :mod:`.qcdq` and :mod:`.qonnx` write
it in the operators of a format. Import it after :func:`~.packages.require`.
"""

import re
import warnings
from contextlib import contextmanager
from typing import Any, Iterator, Mapping, Optional, Sequence

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes import common
from torch import Tensor, nn

from mmacs.deploy.modules.waypoint import WAYPOINT
from mmacs.deploy.tracing import exporting

OPSET = 21
OWN = 'mmacs'  # domain of the nodes that are written in the operators of a format
INPUT = 'images'
AXES = ('batch', None, 'height', 'width')


def traced(pipeline: nn.Module, images: Tensor, fixed: bool) -> ir.Model:
    """Returns the graph of a module.

    Args:
        pipeline (nn.Module): Maps images to tensors, whose ``names`` it knows after a forward.
        images (Tensor): An example, (B, 3, H, W), with B > 1 unless the shape is fixed.
        fixed (bool): Whether the graph takes images of this shape alone.
    """
    dynamic = {axis: torch.export.Dim.DYNAMIC for axis, name in enumerate(AXES) if name is not None}
    with exporting(), torch.no_grad(), _quiet():
        # torch.onnx.export of the module itself may fall back to another way of tracing, which knows no nodes of ours
        program = torch.export.export(pipeline, (images,), dynamic_shapes=None if fixed else (dynamic,), strict=False)
        exported = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, input_names=[INPUT], output_names=pipeline.names, verbose=False
        )
    model = exported.model
    _write_waypoints(model)
    # now, while each quantizer has its name: what the file calls by name stays, however equal
    common.CommonSubexpressionEliminationPass()(model)
    if not fixed:
        _name_axes(model)
    _say_four_corners(model)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


def _name_axes(model: ir.Model) -> None:
    """Call symbolic sizes what they are, in all shapes."""
    (images,) = model.graph.inputs
    new = {str(size.value): name for size, name in zip(images.shape, AXES) if name is not None}
    pattern = re.compile('|'.join(rf'\b{re.escape(old)}\b' for old in new))

    def renamed(value: ir.Value) -> None:
        if value.shape is not None:
            value.shape = ir.Shape(
                pattern.sub(lambda found: new[found[0]], size.value)
                if isinstance(size, ir.SymbolicDim) and size.value
                else size
                for size in value.shape
            )

    for value in model.graph.inputs:
        renamed(value)
    for node in model.graph.all_nodes():
        for value in node.outputs:
            renamed(value)


def _say_four_corners(model: ir.Model) -> None:
    """Reshape boxes to (B, N, 4) before suppression; OpenVINO does not always see through what made them."""
    for node in [node for node in model.graph if node.op_type == 'NonMaxSuppression']:
        build, boxes = Builder(node), node.inputs[0]
        shape = build.constant(np.array([0, -1, 4]), 'boxes/shape')
        node.replace_input_with(0, build.add('Reshape', [boxes, shape], ir.DataType.FLOAT, boxes.shape))


class Builder:
    """Puts nodes in the place of one of ours.

    Args:
        node (Node): The node; new ones are put before it.
    """

    def __init__(self, node: ir.Node) -> None:
        self.at, self.graph = node, node.graph

    def constant(self, array: np.ndarray, name: str, dtype: Optional[ir.DataType] = None) -> ir.Value:
        """Returns a stored tensor, that which already has this name if there is one."""
        if name not in self.graph.initializers:
            tensor = ir.Tensor(np.asarray(array), dtype=dtype, name=name)
            value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=tensor.shape)
            self.graph.register_initializer(value)
        return self.graph.initializers[name]

    def add(
        self,
        kind: str,
        inputs: Sequence[ir.Value],
        dtype: ir.DataType,
        shape: Optional[ir.Shape],
        name: Optional[str] = None,
        attributes: Mapping[str, Any] = {},  # noqa: B006
        domain: str = '',
        before: Optional[ir.Node] = None,
    ) -> ir.Value:
        """Returns what a new node makes; it stands before the replaced one, or another."""
        node = ir.node(kind, inputs, dict(attributes), domain=domain)
        self.graph.insert_before(before or self.at, node)
        (value,) = node.outputs
        value.name, value.type, value.shape = name, ir.TensorType(dtype), shape
        return value

    def replace(self, value: ir.Value) -> None:
        """Have whatever reads the node's result read another value, and take the node out."""
        (old,) = self.at.outputs
        ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
        self.graph.remove(self.at, safe=True)


def own_nodes(model: ir.Model, kind: str) -> Sequence[ir.Node]:
    """Returns the nodes of ours of a kind, such as ``'mmacs::Quantize'``."""
    return [node for node in model.graph if f'{node.domain}::{node.op_type}' == kind]


def _write_waypoints(model: ir.Model) -> None:
    """Give the tensors at waypoints their names; runtimes drop the casts."""
    for node in own_nodes(model, WAYPOINT):
        build, to = Builder(node), ir.DataType.FLOAT
        build.replace(
            build.add('Cast', node.inputs, to, node.outputs[0].shape, attributes_of(node)['name'], {'to': to})
        )


def attributes_of(node: ir.Node) -> Mapping[str, Any]:
    """Returns the attributes of a node as Python values."""
    return {name: attribute.value for name, attribute in node.attributes.items()}


def cleaned(model: ir.Model) -> None:
    """Merge what is the same, drop what nobody reads, and what only says how the graph came about; in place."""
    for value in model.graph.initializers.values():  # transposed weights are views, which can't be compared
        array = value.const_value.numpy()
        if not array.flags.c_contiguous:
            value.const_value = ir.Tensor(np.ascontiguousarray(array), name=value.name)
    for clean in (
        common.DeduplicateHashedInitializersPass(),
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.TopologicalSortPass(),
        common.ClearMetadataAndDocStringPass(),
        common.NameFixPass(),
    ):
        clean(model)
    model.opset_imports.pop(OWN, None)
    model.graph.name = 'mmacs'
    model.metadata_props.clear()
