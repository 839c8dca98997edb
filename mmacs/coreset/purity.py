"""Scoring changes nothing: modes and random states are put back as they were."""

import random
from contextlib import contextmanager
from typing import Iterator

import numpy as np
import torch
from torch import nn


@contextmanager
def pure_evaluation(*models: nn.Module) -> Iterator[None]:
    """Eval mode without gradients inside; modes and the states of all random generators are restored after."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    for model in models:
        model.eval()
    try:
        gpus = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices=gpus), torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        random.setstate(python_state)
        np.random.set_state(numpy_state)
