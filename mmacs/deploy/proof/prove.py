"""Compares a file, its reference and the simulation that was trained, and holds the bars."""

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mmacs.deploy.modules.activation import Quantize, recorded_integers
from mmacs.deploy.modules.layers import exact_biases
from mmacs.deploy.modules.waypoint import at_waypoints
from mmacs.deploy.packages import require
from mmacs.deploy.proof import integer_layers, weights
from mmacs.deploy.proof.cut import GIVEN, cut
from mmacs.deploy.proof.equality import ALL, APART, EACH, Equality
from mmacs.deploy.proof.held_activations import HeldActivations
from mmacs.deploy.proof.outputs import LOWEST, OutputDifference
from mmacs.deploy.proof.simulation import simulated_integers
from mmacs.deploy.runtimes import BACKENDS, open_model
from mmacs.deploy.runtimes.qonnx_runtime import is_qonnx
from mmacs.quantization import quantizers
from mmacs.utils.errors import MmacsError, reason

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass
class Proof:
    """What was found, as plain values, and which bars it does not reach.

    Attributes:
        images (int): Number of images.
        shapes (List[List[int]]): Their sizes as the model got them, each once.
        weights (Dict): Number of weights, values and bytes by data type.
        float_weights (List[str]): Layers whose weight has a quantizer, and is stored in floats.
        simulation (Dict): Integers and outputs of the reference with its biases as they were before they were rounded,
            compared with the simulation.
        rounding (Dict): Integers and outputs of the reference, compared with itself before its biases were rounded.
        runtimes (Dict): For each runtime its version, integers and outputs compared with the reference, and how many
            layers it computes in integers. For QONNX its executor, on the first batch.
        sizes (Dict): Bytes of the file, and of one in float32.
        failures (List[str]): In words; empty if all bars are reached.
        warnings (List[str]): What was not compared, since there was nothing to compare, in words.
    """

    images: int = 0
    shapes: List[List[int]] = field(default_factory=list)
    weights: Dict[str, Dict[str, int]] = field(default_factory=dict)
    float_weights: List[str] = field(default_factory=list)
    simulation: Dict[str, Any] = field(default_factory=dict)
    rounding: Dict[str, Any] = field(default_factory=dict)
    runtimes: Dict[str, Dict[str, Any]] = field(default_factory=dict)
    sizes: Dict[str, int] = field(default_factory=dict)
    failures: List[str] = field(default_factory=list)
    warnings: List[str] = field(default_factory=list)

    def plain(self) -> Dict[str, Any]:
        """Returns values that JSON can hold."""
        return {
            **asdict(self),
            'bars': {'all_integers': ALL, 'each_layer': EACH, 'levels_apart': APART},
            'passed': not self.failures,
        }


@torch.no_grad()
def prove(
    model: 'ModelProto',
    reference: nn.Module,
    simulation: nn.Module,
    images: Sequence[Tensor],
    backends: Sequence[str] = BACKENDS,
    advance: Optional[Callable[[str], None]] = None,
) -> Proof:
    """Compare a file with the reference, layer by layer and as a whole, and the reference with the simulation.

    Each layer is fed the reference's integers, so that differences, which at low bit-widths grow from layer to layer,
    are seen where they arise. A bias that is rounded may move integers by several levels where those of the output are
    fine, which is no fault: the bar between reference and simulation is held before biases are rounded, and what that
    changes is told in numbers.

    Args:
        model (ModelProto): The file's content.
        reference (nn.Module): The pipeline that the file was written from, ``forward(images)``, in eval mode.
        simulation (nn.Module): The same around the quantized model.
        images (Sequence[Tensor]): Batches of raw pixels, (B, 3, H, W), float32.
        backends (Sequence[str]): The runtimes. Defaults to all. A file in QONNX is run by QONNX's executor.
        advance (Callable, optional): Called with what is done next, once for the simulation and once per runtime.

    Returns:
        Proof: With the bars that are not reached in its ``failures``.

    Raises:
        MmacsError: If there is no image, or nothing that could be compared.
    """
    if not any(len(one) for one in images):
        raise MmacsError('a proof needs at least one image')
    if not any(isinstance(module, Quantize) for module in reference.modules()):
        raise MmacsError(
            'the recipe quantizes no activations, so that a proof has no integers to compare: write the file without '
            'one, by mmacs.deploy.export_model'
        )
    proof = Proof(images=sum(len(one) for one in images))
    proof.shapes = [list(shape) for shape in dict.fromkeys(tuple(one.shape[2:]) for one in images)]
    _check_file(model, simulation, proof)
    names = [one.name for one in model.graph.output]

    _call(advance, 'reference and simulation')
    integers: List[Dict[str, Tensor]] = []
    waypoints: List[Dict[str, Tensor]] = []
    expected: List[Dict[str, np.ndarray]] = []
    conversion, rounding = (Equality(), OutputDifference()), (Equality(), OutputDifference())
    for batch in images:
        waypoints.append({})
        with recorded_integers(reference) as recorded, at_waypoints(reference, waypoints[-1]):
            expected.append(outputs_of(reference, batch, names))
        integers.append({name: value.clone() for name, value in recorded.items()})
        with (
            simulated_integers(simulation, reference, integers[-1]) as simulated,
            at_waypoints(simulation, waypoints[-1]),
        ):
            simulation(batch)
        with exact_biases(reference):
            with (
                recorded_integers(reference, integers[-1]) as recorded,
                at_waypoints(reference, waypoints[-1]),
            ):
                reference(batch)
            outputs = outputs_of(reference, batch, names)
        exact = {name: value.numpy() for name, value in recorded.items()}
        conversion[0].add(exact, simulated)
        conversion[1].add(outputs_of(simulation, batch, names), outputs)
        rounding[0].add(exact, {name: value.numpy() for name, value in integers[-1].items()})
        rounding[1].add(outputs, expected[-1])
    for what, (equality, difference) in (('simulation', conversion), ('rounding', rounding)):
        setattr(proof, what, {'integers': equality.report(), 'outputs': difference.report()})
    layers, apart = conversion[0].layers, conversion[0].overall().apart
    if apart > APART:
        worst = max(layers, key=lambda name: layers[name].apart)
        proof.failures.append(
            f'the reference is up to {apart} levels from the simulation, in {worst}, {APART} is allowed'
        )
    proof.warnings += [f'no integers of {name} were compared' for name, one in layers.items() if not one.total]
    if proof.simulation['outputs'].get('detections') == 0:
        on = 'the image' if proof.images == 1 else f'{proof.images} images'
        proof.warnings.append(
            f'boxes and scores were not compared, only layers: on {on} the simulation finds nothing with a score of '
            f'{LOWEST} or more; is the checkpoint trained? If it is, lower --score-threshold, or take more --images'
        )

    on_qonnx = is_qonnx(model)
    proven = images[:1] if on_qonnx else images  # its executor is slow
    cut_model, names_of_integers = cut(model)
    content, cut_content = model.SerializeToString(), cut_model.SerializeToString()
    held = HeldActivations(model, reference)
    in_file = [
        _in_file(reference, *one, names, names_of_integers) for one in zip(proven, waypoints, integers, expected)
    ]
    file_layers = [] if on_qonnx else integer_layers.layers_of(model)
    for backend in ('qonnx',) if on_qonnx else backends:
        _call(advance, backend)
        whole, parts = open_model(content, backend), open_model(cut_content, backend)
        equality, difference = Equality(), OutputDifference()
        for batch, known, points, outputs in zip(proven, in_file, waypoints, expected):
            pixels = batch.numpy()
            given = {**held.to_file(known), **{name: value.numpy() for name, value in points.items()}}
            given = {GIVEN + name: value for name, value in given.items() if GIVEN + name in parts.inputs}
            wanted = [name for name in parts.outputs if name not in names]
            equality.add(known, held.from_file(parts.run({'images': pixels, **given}, wanted)))
            difference.add(outputs, whole.run({'images': pixels}, names))
        proof.failures += [f'{backend}: {failure}' for failure in equality.failures()]
        proof.runtimes[backend] = {
            'version': whole.version,
            'integers': equality.report(),
            'outputs': difference.report(),
        }
        if not on_qonnx:  # whose executor computes in floats
            proof.runtimes[backend]['layers'] = integer_layers.summary(file_layers, backend, whole.integer_layers())
    return proof


def _in_file(
    reference: nn.Module,
    batch: Tensor,
    waypoints: Dict[str, Tensor],
    integers: Dict[str, Tensor],
    outputs: Dict[str, np.ndarray],
    names: Sequence[str],
    stored: Sequence[str],
) -> Dict[str, np.ndarray]:
    """Integers that a file ought to have: each tensor once, and none that nobody reads.

    A decoder that moves its queries after the last layer too computes what is then not used, and files leave that out.
    """
    known = _distinct({name: value.numpy() for name, value in integers.items()}, stored)
    lacking = known.keys() - set(stored)
    if not lacking:
        return known
    others = {name: ~integers[name] for name in lacking}  # each is another level
    with recorded_integers(reference, others) as recorded, at_waypoints(reference, waypoints):
        found = outputs_of(reference, batch, names)
    unread = all(np.array_equal(found[name], outputs[name]) for name in names) and all(
        torch.equal(recorded[name], value) for name, value in integers.items() if name not in lacking
    )
    return {name: value for name, value in known.items() if not unread or name not in lacking}


def _distinct(integers: Dict[str, np.ndarray], stored: Sequence[str]) -> Dict[str, np.ndarray]:
    """Integers without those that a file has once for two quantizers of one tensor and one step."""
    kept = {name: integers[name] for name in stored if name in integers}
    for name, values in integers.items():
        if name not in kept and not any(np.array_equal(values, one) for one in kept.values()):
            kept[name] = values  # the file lacks it
    return kept


def outputs_of(pipeline: nn.Module, batch: Tensor, names: Sequence[str]) -> Dict[str, np.ndarray]:
    """Returns the outputs of a pipeline by the names that they have in its file."""
    found = pipeline(batch)
    values = found if isinstance(found, (tuple, list)) else [found]
    return {name: value.numpy() for name, value in zip(names, values)}


def _check_file(model: 'ModelProto', simulation: nn.Module, proof: Proof) -> None:
    onnx = require('onnx')
    try:
        onnx.checker.check_model(model, full_check=not is_qonnx(model))
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        proof.failures.append(f'the ONNX checker refuses the graph: {reason(error)}')
    stored = weights.weights_of(model)
    proof.weights = weights.summary(stored)
    quantized = [one.name.rpartition('.')[0] for _, one in quantizers(simulation) if one.kind == 'weight']
    if is_qonnx(model):
        return  # which stores the values, and says their bits in a node
    proof.float_weights = weights.floats_in_place_of_integers(stored, quantized)
    if proof.float_weights:
        proof.failures.append(f'the weights of {", ".join(proof.float_weights)} are stored in floats')


def _call(advance: Optional[Callable[[str], None]], what: str) -> None:
    if advance is not None:
        advance(what)
