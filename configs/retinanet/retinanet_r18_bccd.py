# A narrow RetinaNet-R18 on BCCD in full precision, from scratch: small enough for a CPU.
_base_ = [
    '../_base_/models/retinanet_r18_narrow.py',
    '../_base_/datasets/bccd_detection.py',
    '../_base_/schedules/detection_from_scratch.py',
]

epochs = 40

model = dict(bbox_head=dict(num_classes=3))
train_cfg = dict(max_epochs=epochs, val_interval=10)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, convert_to_iter_based=True),
]
