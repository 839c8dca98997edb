# A narrow FCOS-R18 in full precision on the embedded detection set: RetinaNet's config there with another head.
_base_ = '../retinanet/retinanet_r18_embedded.py'

model = dict(
    type='FCOS',
    bbox_head=dict(
        _delete_=True,
        type='FCOSHead',
        num_classes=5,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        norm_cfg=dict(type='GN', num_groups=8),
        strides=[8, 16, 32, 64],
        regress_ranges=((-1, 20), (20, 40), (40, 80), (80, 160)),
        center_sampling=True,
        centerness_on_reg=True,
        norm_on_bbox=True,
        loss_bbox=dict(type='GIoULoss', loss_weight=1.0),
    ),
)
