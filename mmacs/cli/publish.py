"""A checkpoint to hand out: what inference needs and nothing that only training does."""

import hashlib
import io
import os
from pathlib import Path

import torch

from mmacs.hooks.quantization_hook import STATE_KEY
from mmacs.quantization import Specification
from mmacs.utils.checkpoint_file import read_checkpoint
from mmacs.utils.errors import MmacsError
from mmacs.utils.files import write_whole


def publish(source: os.PathLike, target: os.PathLike) -> Path:
    """Write a checkpoint anew without optimizer, schedules, coreset, messages and whatever else resuming needs.

    Weights with the steps of quantizers, ``meta`` and the specification of the quantization stay. Where the run
    averaged weights (``EMAHook``) these are the averages. The same content always gives the same file.

    Args:
        source (os.PathLike): A checkpoint, quantized or not.
        target (os.PathLike): Where to write, such as ``model.pth``.

    Returns:
        Path: The file, with eight digits of its SHA-256 in its name as MMDetection has it, ``model-0123abcd.pth``.

    Raises:
        MmacsError: If the source is missing or no checkpoint, or its specification is damaged.
    """
    checkpoint = read_checkpoint(source)
    if 'state_dict' not in checkpoint:
        raise MmacsError(f'{source} is no checkpoint: it has no state_dict')
    published = {'meta': checkpoint.get('meta', {}), 'state_dict': checkpoint['state_dict']}
    if STATE_KEY in checkpoint:
        published[STATE_KEY] = Specification.from_state(checkpoint[STATE_KEY]).state()
    content = io.BytesIO()  # a file's own name would go into it
    torch.save(published, content)
    digest = hashlib.sha256(content.getvalue()).hexdigest()[:8]
    final = Path(target).with_name(f'{Path(target).name.removesuffix(".pth")}-{digest}.pth')
    write_whole(final, content.getvalue())
    return final
