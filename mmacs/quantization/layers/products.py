"""What layers do with quantized values, with gradients that need no second forward."""

from typing import List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor


class Convolution(NamedTuple):
    """Convolution of (N, C, H, W) with a weight and a bias, or its transpose; arguments of ``torch.convolution``."""

    stride: Tuple[int, ...]
    padding: Tuple[int, ...]
    dilation: Tuple[int, ...]
    transposed: bool
    output_padding: Tuple[int, ...]
    groups: int

    def __call__(self, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        """Convolve; by these functions, and not by ``torch.convolution``, which autocast knows on GPUs alone."""
        if self.transposed:
            return torch.nn.functional.conv_transpose2d(
                x, weight, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
            )
        return torch.nn.functional.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def gradients(
        self, grad: Tensor, inputs: Sequence[Optional[Tensor]], needed: Sequence[bool]
    ) -> List[Optional[Tensor]]:
        """Gradients to input, weight and bias; under autocast the dtype of ``grad`` is that of the convolution."""
        x, weight, bias = inputs
        sizes = None if bias is None else list(bias.shape)
        x, weight = x.to(grad.dtype), weight.to(grad.dtype)
        return torch.ops.aten.convolution_backward(grad, x, weight, sizes, *self, list(needed))


class Product(NamedTuple):
    """``x W^T + b`` for x of shape (..., C_in)."""

    def __call__(self, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        """Multiply."""
        return torch.nn.functional.linear(x, weight, bias)

    def gradients(
        self, grad: Tensor, inputs: Sequence[Optional[Tensor]], needed: Sequence[bool]
    ) -> List[Optional[Tensor]]:
        """Returns the gradients to input, weight and bias; under autocast ``grad`` has the dtype of the product."""
        x, weight, _ = inputs
        rows = grad.reshape(-1, grad.shape[-1])
        return [
            (rows @ weight.to(grad.dtype)).view(x.shape) if needed[0] else None,
            rows.t() @ x.to(grad.dtype).reshape(-1, x.shape[-1]) if needed[1] else None,
            rows.sum(0) if needed[2] else None,
        ]
