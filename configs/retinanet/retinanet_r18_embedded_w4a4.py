# The embedded detection set at W4A4 from the weights that retinanet_r18_embedded.py ends with, on a random 30 % that is
# re-drawn in each epoch. retinanet_r18_embedded_w4a4_acs.py chooses the images.
_base_ = ['./retinanet_r18_embedded.py', '../_base_/qat/w4a4.py']

load_from = 'work_dirs/demo/full_precision/epoch_30.pth'
epochs = 16

model = dict(_base_.pop('quantized_model'), model='RetinaNet')
train_dataloader = dict(sampler=dict(_base_.pop('coreset_sampler'), fraction=0.3))
default_hooks = dict(quantization=_base_.pop('quantization_hook'))

train_cfg = dict(max_epochs=epochs, val_interval=epochs)
optim_wrapper = dict(optimizer=dict(lr=5e-4), constructor=_base_.pop('quantization_constructor'))
param_scheduler = [
    dict(type='CosineAnnealingLR', T_max=epochs, eta_min=1e-5, by_epoch=True, convert_to_iter_based=True),
]
