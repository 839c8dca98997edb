"""What the weights of a layer meet: its inputs as rows, one column for each weight of a neuron."""

from contextlib import contextmanager
from typing import Any, Callable, Iterator, List, Optional, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import unfold

from mmacs.quantization.layers import QuantizedLayer

MAX_ROWS = 4096  # of an image, evenly spaced over its places


class _ReachedError(Exception):
    """The layer has run as often as it will."""


def run_to(layer: QuantizedLayer, run: Callable[[], Any], calls: int) -> List[Tensor]:
    """Runs a model as far as a layer; returns the layer's inputs, fake-quantized unless its quantizers are off.

    Args:
        layer (QuantizedLayer): Convolution or linear map within the model.
        run (Callable): Runs the model.
        calls (int): How often the layer runs.
    """
    found: List[Tensor] = []

    def after(module: nn.Module, args: Any, output: Any) -> None:
        if len(found) >= calls:
            raise _ReachedError

    finished = layer.register_forward_hook(after)
    try:
        with _noting_inputs(layer, found):
            run()
    except _ReachedError:
        pass
    finally:
        finished.remove()
    return found


@contextmanager
def _noting_inputs(layer: QuantizedLayer, found: List[Tensor]) -> Iterator[None]:
    """Inside, what the layer's input quantizer gives it is noted; others that share the quantizer are not asked."""
    per_channel = getattr(layer.input_quantizer, 'num_channels', 1) > 1  # then its channels come first
    listening: List[Any] = []

    def note(module: nn.Module, args: Any, output: Tensor) -> None:
        found.append((output.transpose(0, 1) if per_channel else output).detach())

    def begin(module: nn.Module, args: Any) -> None:
        listening.append(layer.input_quantizer.register_forward_hook(note))

    def end(module: nn.Module, args: Any, output: Any) -> None:
        while listening:
            listening.pop().remove()

    handles = [layer.register_forward_pre_hook(begin), layer.register_forward_hook(end, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def rows_of(layer: QuantizedLayer, x: Tensor) -> Iterator[Tensor]:
    """Gives the inputs of a layer as its neurons read them, image by image.

    Args:
        layer (QuantizedLayer): Convolution with zero padding, or linear map.
        x (Tensor): What it is applied to.

    Yields:
        Tensor: float32, shape (G, rows, N) for G groups of neurons with N weights each.
    """
    if isinstance(layer, nn.Linear):
        yield _some_rows(x.float().reshape(1, -1, x.shape[-1]))
        return
    for image in x.float().reshape(-1, *x.shape[-3:]):
        patches = unfold(image[None], layer.kernel_size, layer.dilation, layer.padding, layer.stride)[0]
        yield _some_rows(patches.unflatten(0, (layer.groups, -1)).transpose(1, 2))


def _some_rows(rows: Tensor) -> Tensor:
    count = rows.shape[1]
    if count <= MAX_ROWS:
        return rows
    return rows[:, torch.linspace(0, count - 1, MAX_ROWS, device=rows.device).long()]


class Products:
    """Sums of products of inputs over all rows, what :func:`~.greedy_path.greedy_path` needs of them.

    Attributes:
        gram (Tensor, optional): Of inputs in the quantized network, float64, shape (G, N, N); None before the first.
        cross (Tensor, optional): Of these with inputs in full precision.
    """

    def __init__(self) -> None:
        self.gram: Optional[Tensor] = None
        self.cross: Optional[Tensor] = None

    def add_calls(self, layer: QuantizedLayer, quantized: Sequence[Tensor], full_precision: Sequence[Tensor]) -> None:
        """Adds all rows of a layer's inputs in both networks, one of each for a call, see :func:`run_to`."""
        for ours, theirs in zip(quantized, full_precision):
            for rows, wanted in zip(rows_of(layer, ours), rows_of(layer, theirs)):
                self.add(rows, wanted)

    def add(self, quantized: Tensor, full_precision: Tensor) -> None:
        """Adds rows of both networks, shape (G, rows, N) each."""
        gram, cross = (torch.bmm(quantized.transpose(1, 2), other).double() for other in (quantized, full_precision))
        self.gram = gram if self.gram is None else self.gram + gram
        self.cross = cross if self.cross is None else self.cross + cross
