# After Moderate coreset (Xia et al. 2023): of each class the images whose importance lies nearest to the median, where
# the paper takes distances to the class centre in feature space.
_base_ = './resnet20_cifar10_w4a4_acs.py'

default_hooks = dict(coreset=dict(selector=dict(type='mmacs.ClassBalanced', selector=dict(type='mmacs.Moderate'))))
