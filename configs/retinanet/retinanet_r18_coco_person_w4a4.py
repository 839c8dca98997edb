# People in a small part of COCO at W4A4 from the full-precision weights of retinanet_r18_coco_person.py: on full data,
# or with a fraction below 1 on a random subset, re-drawn in each epoch. retinanet_r18_coco_person_w4a4_acs.py chooses
# the subset.
_base_ = ['./retinanet_r18_coco_person.py', '../_base_/qat/w4a4.py']

load_from = 'work_dirs/retinanet_r18_coco_person/epoch_24.pth'
epochs = 8

model = dict(_base_.pop('quantized_model'), model='RetinaNet')
train_dataloader = dict(sampler=_base_.pop('coreset_sampler'))
default_hooks = dict(quantization=_base_.pop('quantization_hook'))

train_cfg = dict(max_epochs=epochs, val_interval=epochs)
optim_wrapper = dict(optimizer=dict(lr=5e-4), constructor=_base_.pop('quantization_constructor'))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, convert_to_iter_based=True)]
