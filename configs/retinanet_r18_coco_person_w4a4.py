# People in a small part of COCO at W4A4 from the full-precision weights of retinanet_r18_coco_person.py: on full data,
# or with a fraction below 1 on a random subset, re-drawn in each epoch. retinanet_r18_coco_person_w4a4_acs.py chooses
# the subset.
_base_ = './retinanet_r18_coco_person.py'

load_from = 'work_dirs/retinanet_r18_coco_person/epoch_24.pth'
epochs = 8

model = dict(_delete_=True, type='mmacs.QuantizedModel', model=_base_.model, recipe=dict(preset='w4a4'))
train_dataloader = dict(sampler=dict(_delete_=True, type='mmacs.CoresetSampler', fraction=1.0))
default_hooks = dict(quantization=dict(type='mmacs.QuantizationHook'))

train_cfg = dict(max_epochs=epochs, val_interval=epochs)
optim_wrapper = dict(
    optimizer=dict(lr=5e-4),
    constructor='mmacs.QuantizationOptimWrapperConstructor',
)
param_scheduler = [dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, convert_to_iter_based=True)]
