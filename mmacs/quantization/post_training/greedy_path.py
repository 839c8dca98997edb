"""Greedy path following (Zhang, Zhou and Saab 2022, arXiv 2201.11113, algorithm 1). Pure mathematics."""

from typing import Callable

import torch
from torch import Tensor


def greedy_path(weight: Tensor, gram: Tensor, cross: Tensor, quantize: Callable[[Tensor], Tensor]) -> Tensor:
    """Rounds the weights of neurons one after the other, each such that it makes good what those before it lost.

    With the layer's inputs ``X`` in full precision and ``Y`` in the quantized network, columns x_t and y_t for the t-th
    weight, each neuron minimises ``|| X w - Y q ||`` greedily (the paper's equation 3)::

        q_t = Q( <y_t, u_{t-1} + w_t x_t> / ||y_t||^2 ),    u_t = u_{t-1} + w_t x_t - q_t y_t

    Of the inputs only products of two columns are needed, so that any number of images fits into memory. Where y_t is
    zero, w_t is rounded.

    Args:
        weight (Tensor): G groups of neurons that read the same inputs, float, shape (G, C, N).
        gram (Tensor): ``Y^T Y`` of each group, float, shape (G, N, N).
        cross (Tensor): ``Y^T X`` of each group, float, shape (G, N, N).
        quantize (Callable): Rounds values, shape (G, C, 1), to the levels of their neurons.

    Returns:
        Tensor: Levels, of the dtype and shape of ``weight``.
    """
    rounded = torch.zeros_like(weight)
    energy = gram.diagonal(dim1=1, dim2=2)
    for t in range(weight.shape[2]):
        wanted = torch.einsum('gcs,gs->gc', weight[:, :, : t + 1], cross[:, t, : t + 1])
        reached = torch.einsum('gcs,gs->gc', rounded[:, :, :t], gram[:, t, :t])
        silent = (energy[:, t] <= 0)[:, None]
        target = (wanted - reached) / energy[:, t, None].masked_fill(silent, 1)
        rounded[:, :, t] = quantize(torch.where(silent, weight[:, :, t], target)[..., None])[..., 0]
    return rounded
