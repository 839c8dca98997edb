# GraNd (Paul et al. 2021, arXiv 2107.07075): of each class the largest gradients before training, chosen once
# and kept.
_base_ = './resnet20_cifar10_w4a4_acs.py'

default_hooks = dict(coreset=dict(importance=dict(weights=dict(grand=1.0)), schedule=dict(rounds=1)))
