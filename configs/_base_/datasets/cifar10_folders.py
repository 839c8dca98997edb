# CIFAR-10 as folders of losslessly packed images, which tools/prepare_cifar10.py makes:
# data/cifar10/{train,test}/<class>/<name>.webp
# The augmentation is that of He et al. 2016, section 4.2.
dataset_type = 'CustomDataset'
data_root = 'data/cifar10'

data_preprocessor = dict(
    num_classes=10,
    # ImageNet's statistics, RGB: those that the public CIFAR-10 weights were trained with
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,  # images are loaded as BGR
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]

test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='PackInputs'),
]

train_dataloader = dict(
    batch_size=128,
    num_workers=2,
    persistent_workers=True,
    dataset=dict(
        _scope_='mmpretrain',
        type=dataset_type,
        data_root=data_root,
        data_prefix='train',
        extensions=('.webp', '.png'),
        pipeline=train_pipeline,
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
)

val_dataloader = dict(
    batch_size=128,
    num_workers=2,
    persistent_workers=True,
    dataset=dict(
        _scope_='mmpretrain',
        type=dataset_type,
        data_root=data_root,
        data_prefix='test',
        extensions=('.webp', '.png'),
        pipeline=test_pipeline,
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(_scope_='mmpretrain', type='Accuracy', topk=(1,))

test_dataloader = val_dataloader
test_evaluator = val_evaluator
