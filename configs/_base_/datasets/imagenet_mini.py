# A small part of ImageNet-1k with all its classes, any part: data/imagenet_mini/{train,val} hold the images,
# data/imagenet_mini/{train,val}.txt name each with its label. Pixels as EfficientNet-Lite has them.
data_root = 'data/imagenet_mini'

data_preprocessor = dict(num_classes=1000, mean=[127.0, 127.0, 127.0], std=[128.0, 128.0, 128.0], to_rgb=True)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=224, crop_ratio_range=(0.5, 1.0), interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    dataset=dict(
        _scope_='mmpretrain',
        type='ImageNet',
        data_root=data_root,
        ann_file='train.txt',
        data_prefix='train',
        pipeline=train_pipeline,
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=1,
    dataset=dict(
        _scope_='mmpretrain',
        type='ImageNet',
        data_root=data_root,
        ann_file='val.txt',
        data_prefix='val',
        pipeline=test_pipeline,
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(_scope_='mmpretrain', type='Accuracy', topk=(1, 5))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
