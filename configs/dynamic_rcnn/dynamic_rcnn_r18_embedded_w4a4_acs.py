# The embedded detection set at W4A4 on an adaptive coreset of 30 %, from the weights that
# dynamic_rcnn_r18_embedded.py ends with.
_base_ = ['./dynamic_rcnn_r18_embedded.py', '../_base_/qat/w4a4.py', '../_base_/qat/coreset_detection.py']

load_from = 'work_dirs/dynamic_rcnn_r18_embedded/epoch_30.pth'
epochs = 16

model = dict(_base_.pop('quantized_model'), model='FasterRCNN')
train_dataloader = dict(sampler=dict(_base_.pop('coreset_sampler'), fraction=0.3))
default_hooks = dict(
    quantization=_base_.pop('quantization_hook'),
    coreset=dict(_base_.pop('coreset_hook'), scorer=dict(type='mmacs.TwoStageDetectionScorer')),
)
train_cfg = dict(max_epochs=epochs, val_interval=epochs)
optim_wrapper = dict(optimizer=dict(lr=5e-4), constructor=_base_.pop('quantization_constructor'))
param_scheduler = [
    dict(type='CosineAnnealingLR', T_max=epochs, eta_min=1e-5, by_epoch=True, convert_to_iter_based=True)
]
