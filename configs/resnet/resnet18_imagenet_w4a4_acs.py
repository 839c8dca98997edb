# ResNet-18 on ImageNet-1K with 4-bit weights and activations, trained on an adaptive coreset of 10 % of the images.
# Schedule of Huang et al. 2024 (ACS): 120 epochs, selection every 10, batch 512 (2 GPUs x 256).
_base_ = [
    'mmpretrain::resnet/resnet18_8xb32_in1k.py',
    '../_base_/qat/w4a4.py',
    '../_base_/qat/coreset_classification.py',
]

custom_imports = dict(imports=['mmacs'], allow_failed_imports=False)

# The full-precision weights to start from; they are also the teacher.
load_from = 'https://download.openmmlab.com/mmclassification/v0/resnet/resnet18_8xb32_in1k_20210831-fbbb1da6.pth'

model = dict(_base_.pop('quantized_model'), model='ImageClassifier')

train_dataloader = dict(batch_size=256, sampler=dict(_base_.pop('coreset_sampler'), fraction=0.1))

default_hooks = dict(
    quantization=_base_.pop('quantization_hook'),
    coreset=dict(_base_.pop('coreset_hook'), schedule=dict(interval=10)),
)

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='Adam', lr=1.25e-3),
    constructor=_base_.pop('quantization_constructor'),
    paramwise_cfg=dict(quantizer_lr_mult=0.1),
)
param_scheduler = dict(_delete_=True, type='CosineAnnealingLR', T_max=120, by_epoch=True)
train_cfg = dict(max_epochs=120)
auto_scale_lr = dict(base_batch_size=512)
