"""Scoring changes nothing: modes, buffers and random states are put back as they were."""

from contextlib import contextmanager
from typing import Iterator

import torch
from mmengine.dist import broadcast, get_world_size
from torch import nn

from mmacs.adapters.dynamic_thresholds import dynamic_thresholds, use_dynamic_thresholds
from mmacs.utils.random_state import kept_random_state


@contextmanager
def without_side_effects(*models: nn.Module) -> Iterator[None]:
    """Eval mode without gradients inside; modes, thresholds that follow losses and random states are restored after."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    thresholds = [(model, dynamic_thresholds(model)) for model in models]
    for model in models:
        model.eval()
    try:
        gpus = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with kept_random_state(gpus), torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        for model, kept in thresholds:
            use_dynamic_thresholds(model, kept)


@contextmanager
def main_buffers(model: nn.Module) -> Iterator[None]:
    """All processes have the main one's buffers inside, and their own again after.

    Running statistics differ between processes unless BatchNorm is synchronised; scores must not.
    """
    buffers = list(model.buffers()) if get_world_size() > 1 else []
    own = [buffer.clone() for buffer in buffers]
    try:
        for buffer in buffers:
            broadcast(buffer)
        yield
    finally:
        for buffer, kept in zip(buffers, own):
            buffer.copy_(kept)
