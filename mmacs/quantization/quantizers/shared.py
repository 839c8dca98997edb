"""What stands for a quantizer in layers that read a tensor which is quantized elsewhere."""

from typing import Tuple

from torch import Tensor, nn

from mmacs.quantization.quantizers.base import Quantizer


class SharedQuantizer(nn.Module):
    """Stands in a layer for the quantizer of another one, which reads the same tensor; it has no state of its own.

    Args:
        source (Quantizer): The quantizer. A plain attribute, so that it is a child of the layer that holds it alone; a
            copy of the whole model has the copy of it here.
        levels (Sequence[int]): For each call of this layer in one forward, the level of ``source`` that quantizes.
    """

    def __init__(self, source: Quantizer, levels: Tuple[int, ...] = (0,)) -> None:
        super().__init__()
        self.__dict__['source'] = source
        self.levels = tuple(levels)
        self.calls = 0

    @property
    def num_levels(self) -> int:
        """Number of calls in one forward that are told apart."""
        return len(self.levels)

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize ``x``, or give what the quantizer made of it in this forward."""
        if not self.source.enabled:
            return x
        if self.num_levels == 1:
            return self.source.at_level(x, self.levels[0])
        call, self.calls = self.calls, self.calls + 1
        if call >= self.num_levels:
            self.source.refuse_call(self.num_levels)
        return self.source.at_level(x, self.levels[call])

    def extra_repr(self) -> str:
        """Returns the name of the quantizer, for ``print(model)``."""
        return f'source={self.source.name}, levels={self.levels}'


def source_of(quantizer: nn.Module) -> nn.Module:
    """Returns the quantizer that works in a place: the one there, or the one that it stands for."""
    return quantizer.source if isinstance(quantizer, SharedQuantizer) else quantizer
