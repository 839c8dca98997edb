# A narrow GFL-R18 in full precision on the embedded detection set: RetinaNet's config there with another head.
_base_ = '../retinanet/retinanet_r18_embedded.py'

model = dict(
    type='GFL',
    bbox_head=dict(
        _delete_=True,
        type='GFLHead',
        num_classes=5,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        norm_cfg=dict(type='GN', num_groups=8),
        anchor_generator=dict(
            type='AnchorGenerator', ratios=[1.0], octave_base_scale=3, scales_per_octave=1, strides=[8, 16, 32, 64]
        ),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
    ),
    train_cfg=dict(assigner=dict(_delete_=True, type='ATSSAssigner', topk=9)),
)
