# The images of each class whose predictions have the highest entropy.
_base_ = './resnet20_cifar10_w4a4_acs.py'

default_hooks = dict(coreset=dict(importance=dict(weights=dict(entropy=1.0))))
