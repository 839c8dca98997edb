"""Narrow detectors of each family that find a lot in noise."""

import logging
import re

import mmdet
import torch
from mmdet.structures import DetDataSample
from torch import nn

from tests.test_quantization.test_architectures import shipped_model

NUM_CLASSES = 5


def _dense(channels: int) -> dict:
    return {
        'backbone.depth': 18,
        'backbone.base_channels': 8,
        'backbone.style': 'pytorch',
        'neck.in_channels': [8, 16, 32, 64],
        'neck.out_channels': channels,
        'bbox_head.in_channels': channels,
        'bbox_head.feat_channels': channels,
        'bbox_head.num_classes': NUM_CLASSES,
        'bbox_head.stacked_convs': 1,
    }


_CSP = {
    'backbone.widen_factor': 0.125,
    'neck.in_channels': [32, 64, 128],
    'neck.out_channels': 16,
    'bbox_head.in_channels': 16,
    'bbox_head.feat_channels': 16,
    'bbox_head.num_classes': NUM_CLASSES,
    'bbox_head.stacked_convs': 1,
}
_TWO_STAGE = {
    'backbone.depth': 18,
    'backbone.base_channels': 8,
    'backbone.style': 'pytorch',
    'neck.in_channels': [8, 16, 32, 64],
    'neck.out_channels': 16,
    'rpn_head.in_channels': 16,
    'rpn_head.feat_channels': 16,
    'roi_head.bbox_roi_extractor.out_channels': 16,
    'roi_head.bbox_head.in_channels': 16,
    'roi_head.bbox_head.fc_out_channels': 32,
    'roi_head.bbox_head.num_classes': NUM_CLASSES,
    'test_cfg.rpn.max_per_img': 200,
}
_QUERY = {
    'backbone.depth': 18,
    'backbone.base_channels': 8,
    'backbone.style': 'pytorch',
    'num_queries': 120,
    'encoder.num_layers': 1,
    'decoder.num_layers': 2,
}
# MMDetection's config, and what makes it narrow
DETECTORS = {
    'RetinaNet': ('retinanet/retinanet_r18_fpn_1x_coco.py', _dense(16)),
    'FCOS': ('fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', _dense(64)),
    'ATSS': ('atss/atss_r50_fpn_1x_coco.py', _dense(64)),
    'GFL': ('gfl/gfl_r50_fpn_1x_coco.py', _dense(64)),
    'VFNet': ('vfnet/vfnet_r50_fpn_1x_coco.py', _dense(64)),
    'TOOD': ('tood/tood_r50_fpn_1x_coco.py', _dense(192)),
    'Fovea': ('foveabox/fovea_r50_fpn_4xb4-1x_coco.py', _dense(16)),
    'RepPoints': (
        'reppoints/reppoints-moment_r50_fpn_1x_coco.py',
        {**_dense(64), 'bbox_head.point_feat_channels': 64},
    ),
    'RTMDet': ('rtmdet/rtmdet_tiny_8xb32-300e_coco.py', _CSP),
    'YOLOX': ('yolox/yolox_tiny_8xb8-300e_coco.py', _CSP),
    'FasterRCNN': ('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', _TWO_STAGE),
    'DETR': ('detr/detr_r50_8xb2-150e_coco.py', {**_QUERY, 'neck.in_channels': [64]}),
    'DABDETR': ('dab_detr/dab-detr_r50_8xb2-50e_coco.py', {**_QUERY, 'neck.in_channels': [64]}),
}
QUERIES = ('DETR', 'DABDETR')


def samples(count: int, height: int, width: int) -> list:
    """Data samples of images of which nothing is padding."""
    size = (height, width)
    metas = dict(img_shape=size, ori_shape=size, batch_input_shape=size, pad_shape=size, scale_factor=(1.0, 1.0))
    return [DetDataSample(metainfo=dict(metas)) for _ in range(count)]


@torch.no_grad()
def detector(name: str) -> nn.Module:
    """A detector of random weights whose class logits and box codes spread as those of a trained one."""
    path, changes = DETECTORS[name]
    model = shipped_model(mmdet, path, **changes).eval()
    logging.disable(logging.INFO)
    model.init_weights()
    logging.disable(logging.NOTSET)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            module.train()
            module.momentum = 1.0
    images, data = torch.randn(2, 3, 288, 288), samples(2, 288, 288)  # enough for the statistics of small maps
    model(images, data, mode='tensor')
    model.eval()
    spreads = {}
    hooks = [
        part.register_forward_hook(lambda part, args, output: spreads.setdefault(part, []).append(output.std()))
        for part in model.modules()
        if isinstance(part, (nn.Conv2d, nn.Linear))
    ]
    model(images, data, mode='tensor')
    for hook in hooks:
        hook.remove()
    for name, part in model.named_modules():
        last = re.sub(r'\.\d+$', '', name).rpartition('.')[2]
        if not isinstance(part, (nn.Conv2d, nn.Linear)) or not re.search('cls|reg|obj|centerness', last):
            continue
        part.weight.mul_((0.1 if 'reg' in last else 1.5) / max(spreads[part]))
        if part.bias is not None:
            part.bias.uniform_(*(0, 0) if 'reg' in last else (-3, -1))
    return model
