# The same at W4A4 from the weights that retinanet_mobilenet_v2_coco_mini.py ends with, on all images.
_base_ = ['./retinanet_mobilenet_v2_coco_mini.py', '../_base_/qat/w4a4.py']

load_from = 'work_dirs/retinanet_mobilenet_v2_coco_mini/epoch_24.pth'
epochs = 6

model = dict(_base_.pop('quantized_model'), model='RetinaNet', backbone=dict(init_cfg=None))
train_dataloader = dict(sampler=_base_.pop('coreset_sampler'))
default_hooks = dict(quantization=_base_.pop('quantization_hook'))

train_cfg = dict(max_epochs=epochs, val_interval=epochs)
optim_wrapper = dict(optimizer=dict(lr=5e-4), constructor=_base_.pop('quantization_constructor'))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, convert_to_iter_based=True)]
