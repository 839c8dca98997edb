# A narrow ATSS-R18 in full precision on the embedded detection set: RetinaNet's config there with another head.
_base_ = '../retinanet/retinanet_r18_embedded.py'

model = dict(
    type='ATSS',
    bbox_head=dict(
        _delete_=True,
        type='ATSSHead',
        num_classes=5,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        norm_cfg=dict(type='GN', num_groups=8),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
        anchor_generator=dict(
            type='AnchorGenerator', ratios=[1.0], octave_base_scale=3, scales_per_octave=1, strides=[8, 16, 32, 64]
        ),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
    ),
    train_cfg=dict(assigner=dict(_delete_=True, type='ATSSAssigner', topk=9)),
)
