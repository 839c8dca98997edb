# EfficientNet-Lite0 at W8A8 on a small part of ImageNet, from its public full-precision weights in MMPreTrain's names.
_base_ = [
    '../_base_/datasets/imagenet_mini.py',
    'mmpretrain::_base_/default_runtime.py',
    '../_base_/qat/w4a4.py',
]

custom_imports = dict(imports=['mmacs'], allow_failed_imports=False)
load_from = 'data/weights/efficientnet_lite0_mmpretrain.pth'
epochs = 2

model = dict(
    _base_.pop('quantized_model'),
    _scope_='mmpretrain',
    model='ImageClassifier',
    recipe=dict(preset='w8a8'),
    backbone=dict(type='mmacs.EfficientNetLite0'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=1000, in_channels=1280, loss=dict(type='CrossEntropyLoss')),
)
train_dataloader = dict(sampler=_base_.pop('coreset_sampler'))
default_hooks = dict(quantization=_base_.pop('quantization_hook'))

train_cfg = dict(by_epoch=True, max_epochs=epochs, val_interval=epochs)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    constructor=_base_.pop('quantization_constructor'),
    optimizer=dict(type='SGD', lr=1e-4, momentum=0.9, weight_decay=4e-5),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, convert_to_iter_based=True)
