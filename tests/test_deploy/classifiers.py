"""Narrow classifiers of each family, of random weights."""

import logging

import mmpretrain
import torch
from mmpretrain.registry import MODELS
from torch import nn

import mmacs  # noqa: F401  registers its models
from mmacs.models.efficientnet_lite import EfficientNetLite0

PIXELS = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)


class Narrow(EfficientNetLite0):
    """A quarter as wide and without what repeats."""

    layer_settings = {'b': [stage[:2] for stage in EfficientNetLite0.layer_settings['b']]}
    arch_settings = {'b0': (0.25, 1.0, 224)}


def _with_head(backbone: dict, channels: int) -> dict:
    return dict(
        type='ImageClassifier',
        backbone=backbone,
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=channels, loss=dict(type='CrossEntropyLoss')),
        data_preprocessor=PIXELS,
    )


_REPVGG = dict(num_blocks=[1, 1, 2, 1], width_factor=[0.125, 0.125, 0.125, 0.125], group_layer_map=None, se_cfg=None)
CLASSIFIERS = {
    'ResNet-18': _with_head(dict(type='ResNet', depth=18, base_channels=8, stem_channels=8), 64),
    'ResNet-20': _with_head(dict(type='mmacs.CIFARResNet', depth=20), 64),
    'MobileNetV2': _with_head(dict(type='MobileNetV2', widen_factor=0.25), 1280),
    'EfficientNet-Lite0': _with_head(dict(type=Narrow), 320),
    'RepVGG': _with_head(dict(type='RepVGG', arch=_REPVGG, out_indices=(3,)), 64),
}


@torch.no_grad()
def classifier(name: str) -> nn.Module:
    """A classifier whose BatchNorms fit its weights."""
    mmpretrain.utils.register_all_modules()
    logging.disable(logging.INFO)
    model = MODELS.build(CLASSIFIERS[name])
    model.init_weights()
    logging.disable(logging.NOTSET)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
            module.momentum = 1.0
    model.extract_feat(torch.randn(8, 3, 64, 64))
    return model.eval()
