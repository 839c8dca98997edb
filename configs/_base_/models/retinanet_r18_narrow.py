# Half as wide a backbone, a quarter of the head: small enough to train on a CPU from scratch.
_base_ = './retinanet_r18.py'

model = dict(
    backbone=dict(base_channels=32, norm_eval=False),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64, norm_cfg=dict(type='BN')),
    bbox_head=dict(in_channels=64, feat_channels=64, stacked_convs=2),
)
