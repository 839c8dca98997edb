# YOLOX-Nano at W8A8 on an adaptive coreset of 30 % of the images.
_base_ = ['./yolox_nano_coco_mini_w8a8.py', '../_base_/qat/coreset_detection.py']

epochs = 5

train_dataloader = dict(sampler=dict(fraction=0.3))
default_hooks = dict(coreset=_base_.pop('coreset_hook'))
train_cfg = dict(max_epochs=epochs, val_interval=epochs)
param_scheduler = [dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, convert_to_iter_based=True)]
