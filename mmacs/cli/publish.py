"""A checkpoint to hand out: what inference needs and nothing that only training does."""

import hashlib
import io
import os
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmacs.deploy import pack
from mmacs.hooks.loaded_checkpoint import check_fit, refuse_unsound_steps
from mmacs.hooks.quantization_hook import STATE_KEY
from mmacs.quantization import Specification
from mmacs.registry import MODELS
from mmacs.utils.checkpoint_file import read_checkpoint
from mmacs.utils.errors import MmacsError
from mmacs.utils.files import require_new, write_whole


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


def publish_packed(source: os.PathLike, target: os.PathLike, cfg: Config, force: bool = False) -> Path:
    """Write the model of a quantized checkpoint as one small file, which :func:`mmacs.load` reads without a config.

    Args:
        source (os.PathLike): A checkpoint of the quantized model.
        target (os.PathLike): Where to write, such as ``model.mmacs``.
        cfg (Config): The whole config that it was trained with; no data is needed.
        force (bool): Whether a file that is there is replaced. Defaults to False.

    Returns:
        Path: The file.

    Raises:
        MmacsError: If the checkpoint is missing, in full precision, or of another model, or as
            :func:`mmacs.deploy.pack`.
    """
    require_new(target, force)
    checkpoint = read_checkpoint(source)
    if STATE_KEY not in checkpoint:
        raise MmacsError(f'{source} is in full precision: pack the checkpoint of a quantized model')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    if 'data_preprocessor' in cfg:  # as MMEngine's Runner does
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = MODELS.build(cfg.model)
    if not hasattr(model, 'recipe'):
        raise MmacsError(f'{cfg.filename} is in full precision: name the config of {source}, whose model is quantized')
    Specification.of(model).require_same(Specification.from_state(checkpoint[STATE_KEY]), resume=True)
    weights = {key.removeprefix('module.'): value for key, value in checkpoint['state_dict'].items()}
    check_fit(model, weights)
    refuse_unsound_steps(model, weights)
    model.load_state_dict(weights, strict=False)
    model.dataset_meta = (checkpoint.get('meta') or {}).get('dataset_meta')
    return pack(model, target, force)
