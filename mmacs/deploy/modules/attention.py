"""Multi-head attention whose projections are linear maps of integers."""

from typing import Sequence, Tuple

from torch import Tensor, nn

from mmacs.quantization.layers import QuantizedMultiheadAttention


class IntegerAttention(QuantizedMultiheadAttention):
    """Attention with the children ``query``, ``key``, ``value`` and ``out_proj``."""

    _qkv_same_embed_dim = False  # so that torch's transformer layers call it rather than read its weights

    def is_quantizing(self) -> bool:
        """Returns True."""
        return True

    def projections(self, query: Tensor, key: Tensor, value: Tensor) -> Tuple[Tensor, ...]:
        """Queries, keys and values, (N, L, embed_dim) each."""
        return self.query(query), self.key(key), self.value(value)


def integer_attention(layer: QuantizedMultiheadAttention, projections: Sequence[nn.Module]) -> IntegerAttention:
    """Returns attention that stands for a quantized one, which stays as it is.

    Args:
        layer (QuantizedMultiheadAttention): The quantized attention, with a child ``out_proj``.
        projections (Sequence[nn.Module]): Linear maps of queries, keys and values.
    """
    attention = object.__new__(IntegerAttention)
    nn.Module.__init__(attention)
    private = vars(attention).keys()
    vars(attention).update((key, value) for key, value in vars(layer).items() if key not in private)
    attention.query, attention.key, attention.value = projections
    attention.out_proj = layer.out_proj
    return attention
