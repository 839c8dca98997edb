"""Quantized multi-head attention of torch, which MMCV's and MMDetection's transformers wrap."""

from functools import partial
from typing import Optional, Tuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from mmacs.quantization.layers.base import QuantizedLayer, register_layer
from mmacs.quantization.layers.linear import QuantizedLinear
from mmacs.quantization.layers.products import Product
from mmacs.quantization.quantizers import Quantizer, source_of
from mmacs.quantization.recompute import derive, recomputed


@register_layer(nn.MultiheadAttention)
class QuantizedMultiheadAttention(QuantizedLayer, nn.MultiheadAttention):
    """Attention whose four projections are quantized; the attention itself stays in full precision.

    The quantized weight is ``in_proj_weight``, (3 * embed_dim, embed_dim), three projections in one. The fourth,
    ``out_proj``, which torch never calls as a module, becomes a :class:`QuantizedLinear` that is called.
    """

    inputs = ('input_quantizer', 'key_quantizer', 'value_quantizer')
    input_channel_axis = -1
    weight_name = 'in_proj_weight'
    has_output = False
    parts = {'out_proj': QuantizedLinear}

    @classmethod
    def supports(cls, layer: nn.MultiheadAttention) -> bool:
        """Returns whether there is one input projection for all, and nothing is appended to keys and values."""
        return layer.in_proj_weight is not None and layer.bias_k is None and not layer.add_zero_attn

    @property
    def _qkv_same_embed_dim(self) -> bool:
        """What ``nn.TransformerEncoderLayer`` asks before it takes the weights and calls a fused kernel."""
        return not self.is_quantizing()

    def is_quantizing(self) -> bool:
        """Returns whether any quantizer of the layer or of ``out_proj`` is enabled."""
        found = map(source_of, self.modules())
        return any(isinstance(module, Quantizer) and module.enabled for module in found)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Optional[Tensor] = None,
        need_weights: bool = True,
        attn_mask: Optional[Tensor] = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """Attend; arguments, shapes and results are those of :class:`torch.nn.MultiheadAttention`.

        ``is_causal`` is torch's hint that ``attn_mask`` is the causal mask; the mask itself is used here.
        """
        if not self.is_quantizing():
            return super().forward(
                query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
            )
        if is_causal and attn_mask is None:
            raise RuntimeError('is_causal only says that attn_mask is the causal mask: give attn_mask too')
        batched = query.dim() == 3
        if not batched:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))

        q, k, v = self._project(query, key, value)
        mask = self._merge(attn_mask, key_padding_mask, q.dtype)
        weights = None
        if need_weights:
            scores = q * self.head_dim**-0.5 @ k.transpose(-2, -1)
            weights = (scores if mask is None else scores + mask).softmax(-1)
            weights = F.dropout(weights, self.dropout, self.training)
            output = weights.to(v.dtype) @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            output = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        output = self.out_proj(output.transpose(1, 2).flatten(2))

        if not batched:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1), weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> Tuple[Tensor, ...]:
        """Queries, keys and values (N, L, embed_dim) as heads, (N, num_heads, L, head_dim)."""
        projected = self.projections(query, key, value)
        return tuple(x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for x in projected)

    def projections(self, query: Tensor, key: Tensor, value: Tensor) -> Tuple[Tensor, ...]:
        """Queries, keys and values, (N, L, embed_dim) each."""
        inputs = (self.input_quantizer(query), self.key_quantizer(key), self.value_quantizer(value))
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        weight = self.quantized_weight()
        weights = (derive(weight, partial(_third, number=number)) for number in range(3))
        return tuple(recomputed(Product(), *operands) for operands in zip(inputs, weights, biases))

    def _merge(
        self, attn_mask: Optional[Tensor], key_padding_mask: Optional[Tensor], dtype: torch.dtype
    ) -> Optional[Tensor]:
        """One mask to add to the scores, broadcastable to (N, num_heads, L, S), or None.

        Args:
            attn_mask (Tensor, optional): (L, S) or (N * num_heads, L, S); True, or -inf, forbids.
            key_padding_mask (Tensor, optional): (N, S); True, or -inf, marks padding.
            dtype (torch.dtype): Of the scores.
        """
        masks = []
        if attn_mask is not None:
            per_head = attn_mask.dim() == 3
            masks.append(attn_mask.unflatten(0, (-1, self.num_heads)) if per_head else attn_mask[None, None])
        if key_padding_mask is not None:
            masks.append(key_padding_mask[:, None, None])
        return sum(_additive(mask, dtype) for mask in masks) if masks else None


def _third(weight: Tensor, number: int) -> Tensor:
    """The part of the three weights in one that is for queries, keys or values."""
    return weight.chunk(3)[number]


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns a floating mask as it is; a boolean one as 0 and, where True, -inf."""
    if mask.is_floating_point():
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, float('-inf'))
