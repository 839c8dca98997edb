# The embedded classification set at W4A4 on an adaptive coreset of 30 %, from resnet20_embedded.py's weights.
_base_ = './resnet20_embedded.py'

load_from = 'work_dirs/resnet20_embedded/epoch_10.pth'

model = dict(_delete_=True, type='mmacs.QuantizedModel', model=_base_.model, recipe=dict(preset='w4a4'))
train_dataloader = dict(sampler=dict(_delete_=True, type='mmacs.CoresetSampler', fraction=0.3))
default_hooks = dict(
    quantization=dict(type='mmacs.QuantizationHook'),
    coreset=dict(
        type='mmacs.CoresetHook',
        scorer=dict(type='mmacs.ClassificationScorer'),
        importance=dict(beta='cosine'),
        selector=dict(type='mmacs.ClassBalanced'),
        schedule=dict(interval=2),
    ),
)
train_cfg = dict(max_epochs=6, val_interval=6)
optim_wrapper = dict(optimizer=dict(lr=1e-3), constructor='mmacs.QuantizationOptimWrapperConstructor')
param_scheduler = dict(_delete_=True, type='CosineAnnealingLR', T_max=6, by_epoch=True, convert_to_iter_based=True)
