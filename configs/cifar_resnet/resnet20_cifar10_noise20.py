# ResNet-20 on CIFAR-10 in full precision with a fifth of the labels wrong, the same as in
# resnet20_cifar10_w4a4_noise20.py.
_base_ = './resnet20_cifar10.py'

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='mmacs.NoisyLabels',
        dataset=_base_.train_dataloader.dataset,
        noise=dict(symmetric=0.2),
    )
)
