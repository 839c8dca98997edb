# A narrow RetinaNet-R18 that finds people, in full precision, from scratch, on a small part of COCO 2017: small enough
# for a CPU. Expects data/coco_mini/{train,val,annotations/instances_{train,val}.json}; any part of COCO serves.
_base_ = './retinanet_r18_bccd.py'

data_root = 'data/coco_mini/'
metainfo = dict(classes=('person',))
epochs = 24

model = dict(bbox_head=dict(num_classes=1))
train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(256, 256), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='Resize', scale=(256, 256), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    dataset=dict(data_root=data_root, data_prefix=dict(img='train/'), metainfo=metainfo, pipeline=train_pipeline)
)
val_dataloader = dict(
    dataset=dict(data_root=data_root, data_prefix=dict(img='val/'), metainfo=metainfo, pipeline=test_pipeline)
)
test_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val/'),
        metainfo=metainfo,
        pipeline=test_pipeline,
    )
)
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')

train_cfg = dict(max_epochs=epochs, val_interval=8)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, convert_to_iter_based=True),
]
