# ResNet-20 on CIFAR-10 with 4-bit weights and activations: on full data, or with a fraction below 1 on a random subset,
# re-drawn in each epoch. resnet20_cifar10_w4a4_acs.py chooses the subset.
_base_ = ['./resnet20_cifar10.py', '../_base_/qat/w4a4.py']

# Made of the public weights by tools/convert_cifar_resnet.py.
load_from = 'data/weights/resnet20_cifar10.pth'

model = dict(_base_.pop('quantized_model'), model='ImageClassifier')
train_dataloader = dict(sampler=_base_.pop('coreset_sampler'))
default_hooks = dict(quantization=_base_.pop('quantization_hook'))

optim_wrapper = dict(optimizer=dict(lr=0.01), constructor=_base_.pop('quantization_constructor'))
train_cfg = dict(max_epochs=20, val_interval=5)
param_scheduler = dict(_delete_=True, type='CosineAnnealingLR', T_max=20, by_epoch=True, convert_to_iter_based=True)
