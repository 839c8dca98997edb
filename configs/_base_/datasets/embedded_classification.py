# The embedded classification set: 32 x 32 tiles of ten shapes, drawn on first use.
data_preprocessor = dict(num_classes=10, mean=[127.5, 127.5, 127.5], std=[64.0, 64.0, 64.0], to_rgb=False)

train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    dataset=dict(
        _scope_='mmpretrain',
        type='mmacs.EmbeddedClassification',
        split='train',
        pipeline=[dict(type='RandomFlip', prob=0.5, direction='horizontal'), dict(type='PackInputs')],
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=1,
    dataset=dict(
        _scope_='mmpretrain',
        type='mmacs.EmbeddedClassification',
        split='test',
        pipeline=[dict(type='PackInputs')],
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(_scope_='mmpretrain', type='Accuracy', topk=(1,))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
