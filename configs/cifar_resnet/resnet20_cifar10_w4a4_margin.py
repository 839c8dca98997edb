# The images of each class with the smallest margins between the two most probable classes.
_base_ = './resnet20_cifar10_w4a4_acs.py'

default_hooks = dict(coreset=dict(importance=dict(weights=dict(margin=1.0))))
