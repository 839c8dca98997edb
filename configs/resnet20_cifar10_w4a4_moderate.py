# Moderate coreset (Xia et al. 2023): of each class the images whose importance lies nearest to the median.
_base_ = './resnet20_cifar10_w4a4_acs.py'

default_hooks = dict(coreset=dict(selector=dict(type='mmacs.ClassBalanced', selector=dict(type='mmacs.Moderate'))))
