# Half as wide a MobileNetV2 in full precision on the embedded classification set. It strides 32 pixels, so that tiles
# are enlarged to 64 x 64.
_base_ = '../cifar_resnet/resnet20_embedded.py'

resize = dict(type='Resize', scale=64)

model = dict(backbone=dict(_delete_=True, type='MobileNetV2', widen_factor=0.5), head=dict(in_channels=1280))
train_dataloader = dict(
    dataset=dict(pipeline=[resize, dict(type='RandomFlip', prob=0.5, direction='horizontal'), dict(type='PackInputs')])
)
val_dataloader = dict(dataset=dict(pipeline=[resize, dict(type='PackInputs')]))
test_dataloader = val_dataloader
randomness = dict(seed=0)
