# MMDetection's RetinaNet with ResNet-18, no stage of it frozen, since frozen stages cannot adapt to low bits, and
# without the ImageNet weights.
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'

model = dict(
    backbone=dict(depth=18, frozen_stages=-1, init_cfg=None),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
