# Of each class the images with the most forgetting events (Toneva et al. 2019, arXiv 1812.05159), counted from epoch to
# epoch; errors order equal counts.
_base_ = './resnet20_cifar10_w4a4_acs.py'

default_hooks = dict(coreset=dict(importance=dict(weights=dict(forgetting=1.0, evs=0.1)), schedule=dict(interval=1)))
