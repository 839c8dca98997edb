# YOLOX-Nano with weights and activations of 4 bits, trained longer and with larger steps than at 8 bits, since so few
# levels move the network further.
_base_ = './yolox_nano_coco_mini_w8a8.py'

epochs = 5

model = dict(recipe=dict(preset='w4a4'))
train_cfg = dict(max_epochs=epochs, val_interval=epochs)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, convert_to_iter_based=True),
]
