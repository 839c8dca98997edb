# A narrow RetinaNet-R18 in full precision on the embedded detection set, which is drawn on first use: small enough to
# train from scratch on two CPU cores in under three minutes.
_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'

custom_imports = dict(imports=['mmacs'], allow_failed_imports=False)
data_root = 'data/embedded_detection/'
epochs = 30

model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[64.0, 64.0, 64.0], bgr_to_rgb=False),
    backbone=dict(base_channels=16, stem_channels=16, frozen_stages=-1, norm_eval=False, init_cfg=None),
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

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(160, 160), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(160, 160), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        type='mmacs.EmbeddedDetection',
        data_root=data_root,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        type='mmacs.EmbeddedDetection',
        data_root=data_root,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val/'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=epochs, val_interval=epochs)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=4e-3, weight_decay=0.01), clip_grad=dict(max_norm=10)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=60),
    dict(type='CosineAnnealingLR', T_max=epochs, eta_min=1e-5, by_epoch=True, convert_to_iter_based=True),
]
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(max_keep_ckpts=1),
    visualization=dict(interval=10, score_thr=0.4),
)
randomness = dict(seed=0)
