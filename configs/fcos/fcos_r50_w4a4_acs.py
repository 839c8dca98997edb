# How to turn any one-stage MMDetection config into a quantized coreset run. Replace what is marked (*).
_base_ = 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'  # (*) your config

custom_imports = dict(imports=['mmacs'], allow_failed_imports=False)
load_from = 'https://download.openmmlab.com/mmdetection/v2.0/fcos/fcos_r50_caffe_fpn_gn-head_1x_coco/fcos_r50_caffe_fpn_gn-head_1x_coco-821213aa.pth'  # (*) its trained checkpoint  # noqa: E501

model = dict(type='mmacs.QuantizedModel', model='FCOS', recipe=dict(preset='w4a4'))  # (*) its type
train_dataloader = dict(sampler=dict(_delete_=True, type='mmacs.CoresetSampler', fraction=0.3))
default_hooks = dict(
    quantization=dict(type='mmacs.QuantizationHook'),
    coreset=dict(type='mmacs.CoresetHook', scorer=dict(type='mmacs.DenseDetectionScorer')),
)
optim_wrapper = dict(constructor='mmacs.QuantizationOptimWrapperConstructor')
