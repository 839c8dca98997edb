# ResNet-20 on the embedded classification set (32 x 32 tiles of ten shapes, drawn on first use), in full precision.
_base_ = ['mmpretrain::_base_/default_runtime.py', 'mmpretrain::_base_/schedules/cifar10_bs128.py']

custom_imports = dict(imports=['mmacs'], allow_failed_imports=False)

model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmacs.CIFARResNet', depth=20),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64, loss=dict(type='CrossEntropyLoss')),
)
data_preprocessor = dict(num_classes=10, mean=[127.5, 127.5, 127.5], std=[64.0, 64.0, 64.0], to_rgb=False)

train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    dataset=dict(
        type='mmacs.EmbeddedClassification',
        split='train',
        pipeline=[dict(type='RandomFlip', prob=0.5, direction='horizontal'), dict(type='PackInputs')],
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=1,
    dataset=dict(type='mmacs.EmbeddedClassification', split='test', pipeline=[dict(type='PackInputs')]),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='Accuracy', topk=(1,))
test_dataloader = val_dataloader
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=10, val_interval=5)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=3e-3, weight_decay=0.05))
param_scheduler = dict(
    _delete_=True, type='OneCycleLR', eta_max=3e-3, total_steps=10, by_epoch=True, convert_to_iter_based=True
)
