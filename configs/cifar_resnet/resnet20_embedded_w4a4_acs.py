# The embedded classification set at W4A4 on an adaptive coreset of 30 %, from resnet20_embedded.py's weights.
_base_ = ['./resnet20_embedded.py', '../_base_/qat/w4a4.py', '../_base_/qat/coreset_classification.py']

load_from = 'work_dirs/resnet20_embedded/epoch_10.pth'

model = dict(_base_.pop('quantized_model'), model='ImageClassifier')
train_dataloader = dict(sampler=dict(_base_.pop('coreset_sampler'), fraction=0.3))
default_hooks = dict(quantization=_base_.pop('quantization_hook'), coreset=_base_.pop('coreset_hook'))
train_cfg = dict(max_epochs=6, val_interval=6)
optim_wrapper = dict(optimizer=dict(lr=1e-3), constructor=_base_.pop('quantization_constructor'))
param_scheduler = dict(_delete_=True, type='CosineAnnealingLR', T_max=6, by_epoch=True, convert_to_iter_based=True)
