"""A graph cut at its quantized activations, so that each layer can be fed integers that are known."""

from typing import TYPE_CHECKING, List, Tuple

from mmacs.deploy.modules.waypoint import PREFIX
from mmacs.deploy.packages import require
from mmacs.deploy.proof.wires import Wires
from mmacs.utils.errors import MmacsError

if TYPE_CHECKING:
    from onnx import ModelProto

GIVEN = 'given/'  # what the names of the new inputs begin with


def cut(model: 'ModelProto') -> Tuple['ModelProto', List[str]]:
    """Make every quantized activation an output of the graph, and feed whatever reads it from an input of its own.

    So what each layer computes depends on the integers that it is given, not on what the layers before it made of
    theirs; waypoints are fed, too. The rest of the graph stays as it is, and runtimes optimize it likewise.

    Args:
        model (ModelProto): A model whose quantized activations are named ``<quantizer>#<call>``.

    Returns:
        Tuple[ModelProto, List[str]]: The cut model, whose further inputs are ``given/<name>``, and the names.

    Raises:
        MmacsError: If nothing in the model has such a name.
    """
    onnx = require('onnx')
    integers = Wires(model).integers()
    if not integers:
        raise MmacsError('the file has no quantized activations with the names that mmacs gives them')
    known = {one.name: one for one in onnx.shape_inference.infer_shapes(model).graph.value_info}
    made = onnx.ModelProto()
    made.CopyFrom(model)
    wires = Wires(model)
    for node in made.graph.node:
        for place, name in enumerate(node.input):
            if name in integers or name.startswith(PREFIX):
                node.input[place] = GIVEN + name
    outputs = {one.name for one in made.graph.output}
    kinds = {name: onnx.TensorProto.FLOAT for name in wires.maker if name.startswith(PREFIX)}
    for name, quantize in integers.items():
        zero_point = wires.value(quantize.input[2]) if len(quantize.input) > 2 else None
        if quantize.op_type == 'Quant':
            kinds[name] = onnx.TensorProto.FLOAT
        elif zero_point is None:
            kinds[name] = onnx.TensorProto.UINT8
        else:
            kinds[name] = onnx.helper.np_dtype_to_tensor_dtype(zero_point.dtype)
    # what is an output may not be described twice
    others = [one for one in made.graph.value_info if one.name not in integers]
    del made.graph.value_info[:]
    made.graph.value_info.extend(others)
    for name, kind in kinds.items():
        shape = None
        if name in known and known[name].type.tensor_type.HasField('shape'):
            dimensions = known[name].type.tensor_type.shape.dim
            shape = [one.dim_value if one.HasField('dim_value') else None for one in dimensions]
        if wires.readers.get(name):
            made.graph.input.append(onnx.helper.make_tensor_value_info(GIVEN + name, kind, shape))
        if name in integers and name not in outputs:
            made.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, shape))
    return made, list(integers)
