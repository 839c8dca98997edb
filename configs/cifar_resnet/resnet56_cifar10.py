# ResNet-56 on CIFAR-10 in full precision; everything else as in resnet20_cifar10.py.
_base_ = './resnet20_cifar10.py'

model = dict(backbone=dict(depth=56))
