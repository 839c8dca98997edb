# BCCD at W4A4 on an adaptive coreset of 30 % of the images.
_base_ = './retinanet_r18_bccd_w4a4.py'

train_dataloader = dict(sampler=dict(fraction=0.3))
default_hooks = dict(
    coreset=dict(
        type='mmacs.CoresetHook',
        scorer=dict(type='mmacs.DenseDetectionScorer'),
        importance=dict(beta='cosine'),
        schedule=dict(interval=4),
    ),
)
