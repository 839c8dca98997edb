"""How much each layer suffers from quantization: the drop of the metric when it alone is quantized."""

import json
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from torch import nn

from mmacs.quantization.analysis.cost import layer_bits
from mmacs.quantization.convert import quantizers
from mmacs.quantization.layers import QuantizedLayer
from mmacs.quantization.quantizers import Quantizer
from mmacs.quantization.roles import find_roles
from mmacs.utils.files import write_whole


def quantizers_by_layer(model: nn.Module) -> Dict[str, List[Quantizer]]:
    """Returns the quantizers by the name of the module that holds them, in the model's order."""
    found: Dict[str, List[Quantizer]] = {}
    for name, quantizer in quantizers(model):
        found.setdefault(name.rpartition('.')[0], []).append(quantizer)
    return found


@contextmanager
def only(model: nn.Module, layers: Iterable[str]) -> Iterator[nn.Module]:
    """Inside, the quantizers of these layers work and all others pass their tensors through unchanged.

    One that several layers follow works where it belongs to one of these, then for all of them.
    """
    chosen = set(layers)
    before = [(quantizer, quantizer.enabled) for _, quantizer in quantizers(model)]
    for layer, found in quantizers_by_layer(model).items():
        for quantizer in found:
            quantizer.enabled = layer in chosen
    try:
        yield model
    finally:
        for quantizer, enabled in before:
            quantizer.enabled = enabled


def set_bits(model: nn.Module, changed: Iterable[Quantizer], bits: int, calibrate: Callable[[], Any]) -> None:
    """Give quantizers another bit-width and calibrate them anew in full-precision surroundings.

    Args:
        model (nn.Module): A converted model.
        changed (Iterable[Quantizer]): Some of its quantizers.
        bits (int): The bit-width.
        calibrate (Callable): Calibrates the quantizers of ``model`` that have no range.

    Raises:
        MmacsError: If a quantizer can't have that bit-width.
    """
    with only(model, []):
        for quantizer in changed:
            quantizer.change_bits(bits)
            quantizer.forget_range()
            quantizer.enabled = True
        calibrate()


def layers_to_choose(model: nn.Module, all_layers: bool = False) -> Dict[str, List[Quantizer]]:
    """Returns the layers whose bit-width is free, with the quantizers that it is for.

    Budgets count weights, so these are layers with a quantized weight. Their inputs follow the weight where the recipe
    gives both the same bits, and keep theirs where it tells them apart, as ``w4a8`` does, or where others have the
    same quantizer.

    Args:
        model (nn.Module): A converted model, with the bits of its recipe.
        all_layers (bool): Whether the layers that see the image or predict are free too.

    Returns:
        Dict[str, List[Quantizer]]: Quantizers by layer name, in the model's order.
    """
    kept = () if all_layers else find_roles(model)
    free: Dict[str, List[Quantizer]] = {}
    for name, found in quantizers_by_layer(model).items():
        layer = model.get_submodule(name)
        if name in kept or not isinstance(layer, QuantizedLayer) or layer.weight_quantizer not in found:
            continue
        weight_bits, input_bits = layer_bits(layer)
        inputs = [getattr(layer, kind) for kind in layer.inputs]
        alone = all(isinstance(quantizer, Quantizer) and max(quantizer.reads) == 1 for quantizer in inputs)
        follow = inputs if weight_bits == input_bits and alone else []
        free[name] = [layer.weight_quantizer, *follow]
    return free


class Record:
    """Measured drops in a JSON file that is whole at any time, so that a killed measurement goes on where it was.

    Args:
        path (Path): The file. What it holds is used if it was measured under the same ``conditions``.
        conditions (dict): Everything the drops depend on, as values that JSON can hold.

    Attributes:
        metric (str, optional): Name of the metric.
        full_precision (float, optional): Its value in full precision.
        drops (Dict[str, Dict[int, float]]): Drop of the metric by layer and bit-width.
    """

    def __init__(self, path: Path, conditions: Dict[str, Any]) -> None:
        self.path = path
        self.conditions = conditions
        self.metric: Optional[str] = None
        self.full_precision: Optional[float] = None
        self.drops: Dict[str, Dict[int, float]] = {}
        try:
            stored = json.loads(path.read_text())
        except (OSError, ValueError, RecursionError):
            return
        if isinstance(stored, dict) and stored.get('conditions') == conditions:
            self.metric, self.full_precision = stored['metric'], stored['full_precision']
            self.drops = {
                layer: {int(bits): drop for bits, drop in drops.items()} for layer, drops in stored['drops'].items()
            }

    def missing(self, layers: Iterable[str], bits: int) -> List[str]:
        """Returns those of the layers that have not been measured at a bit-width."""
        return [layer for layer in layers if bits not in self.drops.get(layer, ())]

    def add(self, layer: str, bits: int, drop: float) -> None:
        """Add a drop and write the file."""
        self.drops.setdefault(layer, {})[bits] = drop
        content = {name: getattr(self, name) for name in ('conditions', 'metric', 'full_precision', 'drops')}
        write_whole(self.path, json.dumps(content, indent=1).encode())


def measure_drops(
    model: nn.Module,
    free: Dict[str, List[Quantizer]],
    record: Record,
    work: Sequence[Tuple[int, List[str]]],
    score: Callable[[], float],
    calibrate: Callable[[], Any],
) -> Iterator[str]:
    """Measure the drop of the metric for layers and bit-widths, each layer quantized alone.

    Args:
        model (nn.Module): A converted model; its bit-widths and ranges are changed.
        free (Dict[str, List[Quantizer]]): What changes its bits, by layer, see :func:`layers_to_choose`.
        record (Record): Where drops go; it has the metric in full precision already.
        work (Sequence[Tuple[int, List[str]]]): Bit-widths with the layers to measure at each.
        score (Callable): Gives the metric of ``model`` as it is.
        calibrate (Callable): Calibrates quantizers of ``model`` that have no range.

    Yields:
        str: The layer that has been measured.
    """
    for bits, layers in work:
        if layers:
            set_bits(model, [quantizer for layer in layers for quantizer in free[layer]], bits, calibrate)
        for layer in layers:
            with only(model, [layer]):
                record.add(layer, bits, record.full_precision - score())
            yield layer
