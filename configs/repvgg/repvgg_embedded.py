# A quarter as wide a RepVGG of seven blocks, with its branches, in full precision on the embedded classification set.
_base_ = '../cifar_resnet/resnet20_embedded.py'

arch = dict(num_blocks=[1, 2, 2, 1], width_factor=[0.25, 0.25, 0.25, 0.25], group_layer_map=None, se_cfg=None)

model = dict(backbone=dict(_delete_=True, type='RepVGG', arch=arch, strides=(1, 2, 2, 1)), head=dict(in_channels=128))
train_cfg = dict(max_epochs=30, val_interval=30)
param_scheduler = dict(total_steps=30)
randomness = dict(seed=0)
