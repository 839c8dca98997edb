"""The teacher: the full-precision weights that a run started from, frozen."""

import hashlib
import os
from copy import deepcopy
from io import BytesIO
from pathlib import Path
from typing import Dict

import torch
from torch import Tensor, nn

from mmacs.quantization.convert import full_precision_state, quantizers
from mmacs.utils.checkpoint_file import read_checkpoint
from mmacs.utils.errors import MmacsError
from mmacs.utils.files import write_whole


def make_teacher(model: nn.Module) -> nn.Module:
    """Copies a quantized model into a frozen one that computes in full precision.

    Args:
        model (nn.Module): A converted model, not wrapped for distributed training. It is left as it is.

    Returns:
        nn.Module: A copy in eval mode, whose quantizers are off and whose parameters need no gradient.
    """
    return as_teacher(deepcopy(model))


def as_teacher(model: nn.Module) -> nn.Module:
    """Put a model in eval mode and full precision, without gradients, in place; returns it."""
    for _, quantizer in quantizers(model):
        quantizer.enabled = False
    return model.eval().requires_grad_(False)


def full_precision_weights(model: nn.Module) -> Dict[str, Tensor]:
    """Returns the state of a quantized model without that of its quantizers, on the CPU."""
    return {key: value.detach().cpu() for key, value in full_precision_state(model).items()}


def fingerprint(weights: Dict[str, Tensor]) -> str:
    """Hash of weights, 16 hexadecimal digits of SHA-256 over names and values."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def save_teacher(teacher: nn.Module, path: os.PathLike) -> str:
    """Write the teacher's weights as an ordinary full-precision checkpoint.

    Returns:
        str: Their fingerprint.
    """
    weights = full_precision_weights(teacher)
    content = BytesIO()  # torch's own writer aborts the process where a disk is full
    torch.save({'state_dict': weights}, content)
    write_whole(path, content.getbuffer(), elsewhere='choose another --work-dir')
    return fingerprint(weights)


def load_teacher(model: nn.Module, path: os.PathLike, expected: str) -> nn.Module:
    """Rebuild the teacher of a run that is being resumed.

    Args:
        model (nn.Module): The quantized model.
        path (os.PathLike): File written by :func:`save_teacher`.
        expected (str): The fingerprint that :func:`save_teacher` returned.

    Returns:
        nn.Module: See :func:`make_teacher`.

    Raises:
        MmacsError: If the file is missing or holds other weights.
    """
    if not Path(path).is_file():
        raise MmacsError(f"cannot resume: the teacher's weights, {path}, are missing")
    weights = read_checkpoint(path).get('state_dict', {})
    if fingerprint(weights) != expected:
        raise MmacsError(f'cannot resume: {path} does not hold the full-precision weights that this run started from')
    teacher = make_teacher(model)
    teacher.load_state_dict(weights)
    return teacher
