# A third as wide a MobileNetV2 in full precision on the embedded classification set. It strides 32 pixels, so tiles are
# enlarged to 64 x 64.
_base_ = '../cifar_resnet/resnet20_embedded.py'

resize = dict(type='Resize', scale=64)

model = dict(backbone=dict(_delete_=True, type='MobileNetV2', widen_factor=0.35), head=dict(in_channels=1280))
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            resize,
            dict(type='RandomCrop', crop_size=64, padding=8),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='PackInputs'),
        ]
    )
)
val_dataloader = dict(dataset=dict(pipeline=[resize, dict(type='PackInputs')]))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=20, val_interval=20)
param_scheduler = dict(total_steps=20)
randomness = dict(seed=0)
del resize  # in its places
