# With soft labels from the full-precision model that the run starts from, mixed with the hard ones half and half.
_base_ = './resnet20_cifar10_w4a4_acs.py'

default_hooks = dict(distillation=dict(type='mmacs.DistillationHook', weight=0.5, temperature=2.0))
