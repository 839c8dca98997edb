# A narrow RetinaNet-R18 in full precision on the embedded detection set, which is drawn on first use: small enough to
# train from scratch on two CPU cores in under three minutes.
_base_ = [
    '../_base_/models/retinanet_r18.py',
    '../_base_/datasets/embedded_detection.py',
    '../_base_/schedules/embedded_detection.py',
]

custom_imports = dict(imports=['mmacs'], allow_failed_imports=False)

model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[64.0, 64.0, 64.0], bgr_to_rgb=False),
    backbone=dict(base_channels=16, stem_channels=16, norm_eval=False),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=64, num_outs=4, norm_cfg=dict(type='BN')),
    bbox_head=dict(
        num_classes=5,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        norm_cfg=dict(type='GN', num_groups=8),
        bbox_coder=dict(target_stds=[0.1, 0.1, 0.2, 0.2]),
        anchor_generator=dict(octave_base_scale=2.5, ratios=[1.0], strides=[8, 16, 32, 64]),
    ),
)
