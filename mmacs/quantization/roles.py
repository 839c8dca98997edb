"""Which layers see the image and which predict: both keep 8 bits in the published low-bit detectors."""

import re
from typing import Dict, List, Mapping

from torch import nn

from mmacs.quantization.layers import quantizable_layers

ROLES = ('input', 'prediction')
_HEAD = re.compile(r'.*heads?')
# Names, in the heads of MMDetection and MMPreTrain, of what predicts: a layer, or a list or sequence that ends in one.
_PREDICTION = re.compile(
    r'(?!pre_)(.*_)?(cls|reg|obj|centerness|iou|logits|kernel|pred|score|out|loc|shape|heat|emb|off|shift|coeff)'
    r'|(.*_)?(cls|reg)_(convs|branches)|(cls|mask)_embed|(.*_)?mask_list(_[xy])?|controller|vfnet_reg_refine|segm_conv'
    r'|(heatmap|wh|offset|.*_cls|dist)_head|fc2?|head|head_dist|classifier'
)
_BACKBONE = re.compile(r'.*?backbone[^.]*')
# Attributes of mmcv's ConvModule and MMPreTrain's LinearBlock that tell of a norm or activation after the layer.
_FOLLOWS = ('with_norm', 'with_activation', 'act')
_IMAGE_CHANNELS = 3


def find_roles(model: nn.Module) -> Dict[str, str]:
    """Tell the layers that see the image (``input``) and those whose outputs are predictions (``prediction``).

    Decided by structure and name, without tracing. The image is seen by the first layer of all, the first of every
    backbone and every convolution of 3 channels (a stem of several branches has several). Predictions come from the
    last layers of those branches of a head that MMDetection and MMPreTrain name as predicting, where neither a norm
    nor an activation follows. A model without such a head has its last layer predict.

    Args:
        model (nn.Module): The model, in full precision or quantized.

    Returns:
        Dict[str, str]: Role by name, for the layers that have one.
    """
    names, modules = list(quantizable_layers(model)), dict(model.named_modules())
    roles = {name: 'prediction' for name in names if _predicts(name, names, modules)}
    if names and not roles:
        roles[names[-1]] = 'prediction'
    first: Dict[str, str] = {}  # layer of all and of each backbone, be it one that can be quantized or not
    for name, module in modules.items():
        if getattr(getattr(module, 'weight', None), 'ndim', 0) > 1:
            backbone = _BACKBONE.match(name)
            first.setdefault('', name)
            first.setdefault(backbone[0] if backbone else '', name)
    for name in names:
        if name in first.values() or getattr(modules[name], 'in_channels', None) == _IMAGE_CHANNELS:
            roles[name] = 'input'
    return roles


def _predicts(name: str, names: List[str], modules: Mapping[str, nn.Module]) -> bool:
    """Whether a layer ends a branch of a head that is named as predicting."""
    path = name.split('.')
    while len(path) > 1:
        part = path.pop()
        parent = modules['.'.join(path)]
        if part in ('conv', 'fc') and any(getattr(parent, follows, None) for follows in _FOLLOWS):
            return False
        if part.isdigit():
            in_order = isinstance(parent, nn.Sequential) or path[-1] == 'layers'  # a ModuleList's are side by side
            if in_order and name != [other for other in names if other.startswith('.'.join(path) + '.')][-1]:
                return False
        elif part not in ('conv', 'linear', 'layers'):
            return any(map(_HEAD.fullmatch, path)) and bool(_PREDICTION.fullmatch(part))
    return False
