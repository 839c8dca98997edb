# ResNet-20 on CIFAR-10 with 4-bit weights and activations, trained on an adaptive coreset of 10 % of the images.
_base_ = './resnet20_cifar10_w4a4.py'

train_dataloader = dict(sampler=dict(fraction=0.1))
default_hooks = dict(
    coreset=dict(
        type='mmacs.CoresetHook',
        scorer=dict(type='mmacs.ClassificationScorer'),
        importance=dict(beta='cosine'),
        selector=dict(type='mmacs.ClassBalanced'),
        schedule=dict(interval=5),
    ),
)
