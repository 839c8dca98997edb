# A quarter as wide an RTMDet in full precision on the embedded detection set, with SiLU as in the paper.
_base_ = '../retinanet/retinanet_r18_embedded.py'

norm_cfg = dict(type='BN')
act_cfg = dict(type='SiLU', inplace=True)

model = dict(
    type='RTMDet',
    backbone=dict(
        _delete_=True, type='CSPNeXt', deepen_factor=0.167, widen_factor=0.25, norm_cfg=norm_cfg, act_cfg=act_cfg
    ),
    neck=dict(
        _delete_=True,
        type='CSPNeXtPAFPN',
        in_channels=[64, 128, 256],
        out_channels=64,
        num_csp_blocks=1,
        expand_ratio=0.5,
        norm_cfg=norm_cfg,
        act_cfg=act_cfg,
    ),
    bbox_head=dict(
        _delete_=True,
        type='RTMDetSepBNHead',
        num_classes=5,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        share_conv=True,
        pred_kernel_size=1,
        with_objectness=False,
        norm_cfg=norm_cfg,
        act_cfg=act_cfg,
        anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=[8, 16, 32]),
        bbox_coder=dict(type='DistancePointBBoxCoder'),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
    ),
    train_cfg=dict(assigner=dict(_delete_=True, type='DynamicSoftLabelAssigner', topk=13)),
)
del norm_cfg, act_cfg  # in their places
