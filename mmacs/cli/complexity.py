"""What one image costs a model, by its config alone: no data and no checkpoint."""

from typing import Dict, Tuple

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement
from torch import nn

from mmacs.cli.runs import require_one_process
from mmacs.models.quantized_model import full_precision_config
from mmacs.quantization import disabled, quantizers
from mmacs.quantization.analysis.cost import bit_operations, count_macs, model_bytes
from mmacs.quantization.recipe import FULL_PRECISION_BITS
from mmacs.registry import MODELS
from mmacs.utils.errors import MmacsError, reason


def build_model(cfg: Config) -> nn.Module:
    """Returns the model of a config in eval mode, with initial weights; none are fetched."""
    require_one_process(cfg)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    backbone = full_precision_config(cfg.model).get('backbone') or {}
    if 'init_cfg' in backbone:
        backbone['init_cfg'] = None
    if cfg.get('data_preprocessor') is not None:  # as MMEngine's Runner does
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return MODELS.build(cfg.model).eval()


def complexity(model: nn.Module, shape: Tuple[int, int]) -> Dict[str, float]:
    """Count what one image costs a model.

    Args:
        model (nn.Module): A detector or classifier of MMDetection or MMPreTrain, converted or not.
        shape (Tuple[int, int]): Height and width of the image in pixels, at least 1.

    Returns:
        Dict[str, float]: ``macs`` (multiply-accumulates, see :func:`~mmacs.quantization.analysis.cost.count_macs`),
        ``bit_operations`` and ``bit_operations_full_precision``, ``bytes`` and ``bytes_full_precision``, ``params``.

    Raises:
        MmacsError: If a number of pixels is below 1, or too small or large for the model.
    """
    if min(shape) < 1:
        raise MmacsError(f'an image has at least one pixel, got the shape {shape[0]} x {shape[1]}')
    sample = BaseDataElement(metainfo=dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0)))
    data = model.data_preprocessor(
        dict(inputs=[torch.zeros(3, *shape, dtype=torch.uint8)], data_samples=[sample]), False
    )
    with disabled(model):  # ranges that nobody set don't matter to counts
        try:
            macs = count_macs(model, lambda: model(**data, mode='tensor'))
        except (RuntimeError, ValueError) as error:
            raise MmacsError(f'the model cannot see an image of {shape[0]} x {shape[1]}: {reason(error)}') from error
    quantized, full = model_bytes(model)
    total = sum(macs.values())
    return {
        'macs': total,
        'bit_operations': sum(bit_operations(model, macs).values()),
        'bit_operations_full_precision': total * FULL_PRECISION_BITS**2,
        'bytes': quantized,
        'bytes_full_precision': full,
        'params': full_precision_parameters(model),
    }


def full_precision_parameters(model: nn.Module) -> int:
    """Returns the number of parameters, those of quantizers left out."""
    own = {id(parameter) for _, quantizer in quantizers(model) for parameter in quantizer.parameters()}
    return sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in own)
