# ResNet-20 on CIFAR-10 in full precision (He et al. 2016, section 4.2), the network that low-bit configs start from.
# Public weights: tools/convert_cifar_resnet.py. Data: tools/prepare_cifar10.py, or MMPreTrain's own CIFAR10 data set,
# which downloads the original batches, by '../_base_/datasets/cifar10_batches.py' in place of
# '../_base_/datasets/cifar10_folders.py'.
_base_ = [
    '../_base_/models/cifar_resnet20.py',
    '../_base_/datasets/cifar10_folders.py',
    'mmpretrain::_base_/schedules/cifar10_bs128.py',
    'mmpretrain::_base_/default_runtime.py',
]

custom_imports = dict(imports=['mmacs'], allow_failed_imports=False)
