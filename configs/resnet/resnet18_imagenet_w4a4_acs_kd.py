# With soft labels alone, from ResNet-101, as Huang et al. 2024 train: two teachers. Images are still chosen by how far
# the quantized ResNet-18 is from the full-precision ResNet-18 that the run starts from.
_base_ = './resnet18_imagenet_w4a4_acs.py'

default_hooks = dict(
    distillation=dict(
        type='mmacs.DistillationHook',
        weight=1.0,
        teacher=dict(
            config='mmpretrain::resnet/resnet101_8xb32_in1k.py',
            checkpoint='https://download.openmmlab.com/mmclassification/v0/resnet/resnet101_8xb32_in1k_20210831-539c63f8.pth',
        ),
    )
)
