# The embedded classification set at W4A4 with all that a runtime stores in integers, on an adaptive coreset of 30 %,
# from the weights that mobilenet_v2_embedded.py ends with.
_base_ = ['./mobilenet_v2_embedded.py', '../_base_/qat/w4a4.py', '../_base_/qat/coreset_classification.py']

load_from = 'work_dirs/mobilenet_v2_embedded/epoch_20.pth'

model = dict(_base_.pop('quantized_model'), model='ImageClassifier', recipe=dict(preset='w4a4-int'))
train_dataloader = dict(sampler=dict(_base_.pop('coreset_sampler'), fraction=0.3))
default_hooks = dict(quantization=_base_.pop('quantization_hook'), coreset=_base_.pop('coreset_hook'))
train_cfg = dict(max_epochs=6, val_interval=6)
optim_wrapper = dict(optimizer=dict(lr=1e-3), constructor=_base_.pop('quantization_constructor'))
param_scheduler = dict(_delete_=True, type='CosineAnnealingLR', T_max=6, by_epoch=True, convert_to_iter_based=True)
