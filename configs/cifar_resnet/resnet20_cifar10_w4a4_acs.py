# ResNet-20 on CIFAR-10 with 4-bit weights and activations, trained on an adaptive coreset of 10 % of the images.
_base_ = ['./resnet20_cifar10_w4a4.py', '../_base_/qat/coreset_classification.py']

train_dataloader = dict(sampler=dict(fraction=0.1))
default_hooks = dict(coreset=_base_.pop('coreset_hook'))
