# A fifth of the labels wrong, and the fifth of the images that look most mislabelled left out. The public weights,
# which are the teacher too, were trained on the right labels: an upper bound. A fair trial starts from weights that saw
# the wrong ones: train resnet20_cifar10_noise20.py and set load_from to what it ends with.
_base_ = './resnet20_cifar10_w4a4_acs.py'

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='mmacs.NoisyLabels',
        dataset=_base_.train_dataloader.dataset,
        noise=dict(symmetric=0.2),
    )
)
default_hooks = dict(coreset=dict(constraints=dict(trim=0.2)))
