# ResNet-20 on CIFAR-10 in full precision (He et al. 2016, section 4.2), the network that low-bit configs start from.
# Public weights: tools/convert_cifar_resnet.py. Data: tools/prepare_cifar10.py, or MMPreTrain's own CIFAR10 data set,
# which downloads the original batches, by './_base_/cifar10_batches.py' in place of './_base_/cifar10_folders.py'.
_base_ = [
    'mmpretrain::_base_/default_runtime.py',
    'mmpretrain::_base_/schedules/cifar10_bs128.py',
    './_base_/cifar10_folders.py',
]

custom_imports = dict(imports=['mmacs'], allow_failed_imports=False)

model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmacs.CIFARResNet', depth=20),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=64,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
