# The embedded detection set at W4A4 with all that a runtime stores in integers, on an adaptive coreset of 30 %, from
# the weights that dab_detr_r18_embedded.py ends with.
_base_ = ['./dab_detr_r18_embedded.py', '../_base_/qat/w4a4.py', '../_base_/qat/coreset_detection.py']

load_from = 'work_dirs/dab_detr_r18_embedded/epoch_60.pth'
epochs = 12

model = dict(
    _base_.pop('quantized_model'), model='DABDETR', recipe=dict(preset='w4a4-int'), backbone=dict(init_cfg=None)
)
train_dataloader = dict(sampler=dict(_base_.pop('coreset_sampler'), fraction=0.3))
default_hooks = dict(
    quantization=_base_.pop('quantization_hook'),
    coreset=dict(
        _base_.pop('coreset_hook'),
        scorer=dict(type='mmacs.QueryDetectionScorer', num_candidates=20, num_hard_negatives=10),
    ),
)
train_cfg = dict(max_epochs=epochs, val_interval=epochs)
optim_wrapper = dict(optimizer=dict(lr=3e-4), constructor=_base_.pop('quantization_constructor'))
param_scheduler = [
    dict(type='CosineAnnealingLR', T_max=epochs, eta_min=1e-5, by_epoch=True, convert_to_iter_based=True)
]
