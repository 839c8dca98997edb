"""How much the outputs of a layer feel an error of its input channels. Imports torch alone."""

from typing import Any, List, Optional, Sequence

import torch
from torch import Tensor

from mmacs.quantization.layers import QuantizedLayer

MAX_OUTPUTS = 1024  # output channels that are looked at


class OutputError:
    """Watches a layer while calibration runs it; :meth:`per_input` then weighs errors of its input channels.

    Were errors independent between channels and places, an error of mean square ``m_c`` in each input channel c gave
    output channel o one of ``sum_c (sum_k w_ock^2) m_c``. It counts in relation to the variance of that output, since
    BatchNorm, or the next layer, brings output channels to a common scale.

    Args:
        layer (QuantizedLayer): A convolution or linear map with one input.
    """

    def __init__(self, layer: QuantizedLayer) -> None:
        self._layer = layer
        self._variances: List[Tensor] = []
        self._means: List[Tensor] = []
        self._handle = layer.register_forward_hook(self._watch)

    def _watch(self, layer: QuantizedLayer, args: Any, output: Tensor) -> None:
        if output.numel():
            channels = output.detach().float().movedim(layer.input_channel_axis, 0).flatten(1)
            self._variances.append(channels.var(1, correction=0))
            self._means.append(channels.mean(1))

    def stop(self) -> None:
        """Watch no longer."""
        self._handle.remove()

    def per_input(self) -> Optional[Tensor]:
        """Returns relative errors of outputs per squared error of inputs, shape (outputs, inputs), or None if none ran.

        At most 1,024 outputs, evenly spaced. One that is constant feels nothing.
        """
        if not self._means:
            return None
        variance = torch.stack(self._variances).mean(0) + torch.stack(self._means).var(0, correction=0)
        weight = self._layer.weight_to_quantize().detach().float().flatten(2 if self._layer.weight.dim() > 2 else 1)
        energy = weight.square().sum(2) if weight.dim() > 2 else weight.square()
        relative = energy * torch.where(variance > 0, 1 / variance, 0.0)[:, None]
        groups = getattr(self._layer, 'groups', 1)
        blocks = relative.unflatten(0, (groups, -1))
        if groups > 1:  # each output reads the inputs of its group alone
            blocks = blocks[:, :, None] * torch.eye(groups, device=blocks.device)[:, None, :, None]
        return blocks.flatten(2).flatten(0, 1)[:: 1 + (len(relative) - 1) // MAX_OUTPUTS]


def together(watched: Sequence[OutputError]) -> Optional[Tensor]:
    """Returns :meth:`OutputError.per_input` of all layers that read one tensor, (outputs of all, inputs), or None."""
    found = [matrix for matrix in (each.per_input() for each in watched) if matrix is not None]
    return torch.cat(found) if found else None
