# YOLOX-Nano at W8A8 on a small part of COCO, from its public full-precision weights in MMDetection's names: two short
# epochs without mosaics. The network is MMDetection's; its data and its schedule of 300 epochs are not inherited.
# Inputs of depthwise convolutions have a range per channel; for runtimes that lack those,
# --cfg-options model.recipe.activation.per_channel=False.
_base_ = ['../_base_/datasets/coco_mini_detection_416.py', 'mmdet::_base_/default_runtime.py', '../_base_/qat/w4a4.py']

load_from = 'data/weights/yolox_nano_coco_mmdet.pth'
epochs = 2
norm = dict(norm_cfg=dict(type='BN', momentum=0.03, eps=0.001), act_cfg=dict(type='Swish'), use_depthwise=True)

model = dict(
    _base_.pop('quantized_model'),
    model='YOLOX',
    _scope_='mmdet',
    recipe=dict(preset='w8a8', activation=dict(per_channel=True)),
    data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
    # The stem sees pixels of 0 to 255: its gradients are thirty times those of all other layers together
    backbone=dict(type='CSPDarknet', deepen_factor=0.33, widen_factor=0.25, frozen_stages=1, **norm),
    neck=dict(type='YOLOXPAFPN', in_channels=[64, 128, 256], out_channels=64, num_csp_blocks=1, **norm),
    bbox_head=dict(type='YOLOXHead', num_classes=80, in_channels=64, feat_channels=64, **norm),
    train_cfg=dict(assigner=dict(type='SimOTAAssigner', center_radius=2.5)),
    test_cfg=dict(score_thr=0.01, nms=dict(type='nms', iou_threshold=0.65)),
)
train_dataloader = dict(sampler=_base_.pop('coreset_sampler'))
default_hooks = dict(quantization=_base_.pop('quantization_hook'))

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=epochs, val_interval=epochs)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    constructor=_base_.pop('quantization_constructor'),
    optimizer=dict(type='SGD', lr=1e-4, momentum=0.9, weight_decay=5e-4, nesterov=True),
    clip_grad=dict(max_norm=35),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, convert_to_iter_based=True)]
del norm  # in its places
