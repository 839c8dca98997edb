# The embedded detection set at W4A4 from the weights that retinanet_r18_embedded.py ends with, on a random 30 % that is
# re-drawn in each epoch. retinanet_r18_embedded_w4a4_acs.py chooses the images.
_base_ = './retinanet_r18_embedded.py'

load_from = 'work_dirs/demo/full_precision/epoch_30.pth'
epochs = 16

model = dict(_delete_=True, type='mmacs.QuantizedModel', model=_base_.model, recipe=dict(preset='w4a4'))
train_dataloader = dict(sampler=dict(_delete_=True, type='mmacs.CoresetSampler', fraction=0.3))
default_hooks = dict(quantization=dict(type='mmacs.QuantizationHook'))

train_cfg = dict(max_epochs=epochs, val_interval=epochs)
optim_wrapper = dict(optimizer=dict(lr=5e-4), constructor='mmacs.QuantizationOptimWrapperConstructor')
param_scheduler = [
    dict(type='CosineAnnealingLR', T_max=epochs, eta_min=1e-5, by_epoch=True, convert_to_iter_based=True),
]
