# ResNet-20 on the embedded classification set (32 x 32 tiles of ten shapes, drawn on first use), in full precision.
_base_ = [
    '../_base_/models/cifar_resnet20.py',
    '../_base_/datasets/embedded_classification.py',
    'mmpretrain::_base_/schedules/cifar10_bs128.py',
    'mmpretrain::_base_/default_runtime.py',
]

custom_imports = dict(imports=['mmacs'], allow_failed_imports=False)

train_cfg = dict(max_epochs=10, val_interval=5)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=3e-3, weight_decay=0.05))
param_scheduler = dict(
    _delete_=True, type='OneCycleLR', eta_max=3e-3, total_steps=10, by_epoch=True, convert_to_iter_based=True
)
