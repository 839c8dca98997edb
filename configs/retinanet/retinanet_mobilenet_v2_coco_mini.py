# RetinaNet with a MobileNetV2 backbone on a small part of COCO in full precision: from ImageNet's features, as far as a
# CPU can train it on 1,100 images.
_base_ = [
    '../_base_/models/retinanet_r18.py',
    '../_base_/datasets/coco_mini_detection_320.py',
    '../_base_/schedules/detection_from_scratch.py',
]

epochs = 24

model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        out_indices=(2, 4, 6),
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=True,
        init_cfg=dict(
            type='Pretrained', checkpoint='data/weights/mobilenetv2_imagenet_backbone_mmdet.pth', prefix='backbone.'
        ),
    ),
    neck=dict(in_channels=[32, 96, 320], start_level=0, out_channels=96, norm_cfg=dict(type='BN')),
    bbox_head=dict(in_channels=96, feat_channels=96, stacked_convs=2),
)
train_cfg = dict(max_epochs=epochs, val_interval=8)
# The features are trained already, the rest is not
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.0, custom_keys=dict(backbone=dict(lr_mult=0.1))))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, convert_to_iter_based=True),
]
