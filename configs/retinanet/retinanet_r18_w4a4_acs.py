# RetinaNet-R18 on COCO with 4-bit weights and activations, trained on an adaptive coreset of 30 % of the images,
# chosen by the default policy (preset='mmacs'; preset='acs' is the paper's, 'rs2' repeated random). Everything
# that is not ours is inherited from MMDetection.
_base_ = [
    'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py',
    '../_base_/qat/w4a4.py',
    '../_base_/qat/coreset_detection.py',
]

custom_imports = dict(imports=['mmacs'], allow_failed_imports=False)

# The full-precision weights to start from; they are also the teacher.
load_from = 'https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_r18_fpn_1x_coco/retinanet_r18_fpn_1x_coco_20220407_171055-614fd399.pth'  # noqa: E501

# Frozen stages cannot adapt to low bits, and load_from overwrites the ImageNet weights that init_cfg would fetch.
_base_.model.backbone.update(frozen_stages=-1, init_cfg=None)
model = dict(_base_.pop('quantized_model'), model='RetinaNet')

train_dataloader = dict(sampler=dict(_base_.pop('coreset_sampler'), fraction=0.3))

default_hooks = dict(quantization=_base_.pop('quantization_hook'), coreset=_base_.pop('coreset_hook'))

# Half the learning rate of full-precision training.
optim_wrapper = dict(optimizer=dict(lr=0.005), constructor=_base_.pop('quantization_constructor'))
