"""What is supported: the models that tests convert, train, score and export, by name. Tests hold each column."""

from typing import Dict, NamedTuple

# What scores the images for each kind of model
SCORERS = {
    'one-stage': 'DenseDetectionScorer',
    'two-stage': 'TwoStageDetectionScorer',
    'query': 'QueryDetectionScorer',
    'classifier': 'ClassificationScorer',
}


class Supported(NamedTuple):
    """A family of models.

    Attributes:
        kind (str): A key of :data:`SCORERS`: what scores it.
        config (str): The config that tests build it from.
        exports (bool): Whether tests export it and compare the file with the model.
        scored (bool): Whether the scorer of its kind knows its head, as the default selection needs.
    """

    kind: str
    config: str
    exports: bool = False
    scored: bool = True


MODELS: Dict[str, Supported] = {
    'RetinaNet': Supported('one-stage', 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', True),
    'SSD': Supported('one-stage', 'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py'),
    'FCOS': Supported('one-stage', 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', True),
    'ATSS': Supported('one-stage', 'mmdet::atss/atss_r50_fpn_1x_coco.py', True),
    'GFL': Supported('one-stage', 'mmdet::gfl/gfl_r50_fpn_1x_coco.py', True),
    'VFNet': Supported('one-stage', 'mmdet::vfnet/vfnet_r50_fpn_1x_coco.py', True),
    'TOOD': Supported('one-stage', 'mmdet::tood/tood_r50_fpn_1x_coco.py', True),
    'FoveaBox': Supported('one-stage', 'mmdet::foveabox/fovea_r50_fpn_4xb4-1x_coco.py', True),
    'RepPoints': Supported('one-stage', 'mmdet::reppoints/reppoints-moment_r50_fpn_1x_coco.py', True),
    'YOLOX': Supported('one-stage', 'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py', True),
    'RTMDet': Supported('one-stage', 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', True),
    'RTMDet-Ins': Supported('one-stage', 'mmdet::rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py'),
    'CenterNet': Supported('one-stage', 'mmdet::centernet/centernet_r18_8xb16-crop512-140e_coco.py', scored=False),
    'CondInst': Supported('one-stage', 'mmdet::condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py'),
    'Faster R-CNN': Supported('two-stage', 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', True),
    'Cascade R-CNN': Supported('two-stage', 'mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py'),
    'Mask R-CNN': Supported('two-stage', 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'),
    'DETR': Supported('query', 'mmdet::detr/detr_r50_8xb2-150e_coco.py', True),
    'DAB-DETR': Supported('query', 'mmdet::dab_detr/dab-detr_r50_8xb2-50e_coco.py', True),
    'Deformable DETR': Supported('query', 'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py'),
    'DINO': Supported('query', 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'),
    'ResNet': Supported('classifier', 'mmpretrain::resnet/resnet18_8xb32_in1k.py', True),
    'MobileNetV2': Supported('classifier', 'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py', True),
    'MobileNetV3': Supported('classifier', 'mmpretrain::mobilenet_v3/mobilenet-v3-small_8xb128_in1k.py'),
    'ShuffleNetV2': Supported('classifier', 'mmpretrain::shufflenet_v2/shufflenet-v2-1x_16xb64_in1k.py'),
    'EfficientNet': Supported('classifier', 'mmpretrain::efficientnet/efficientnet-b0_8xb32_in1k.py'),
    'EfficientNet-Lite': Supported('classifier', 'mmacs::efficientnet/efficientnet_lite0_imagenet_mini_w8a8.py', True),
    'RepVGG': Supported('classifier', 'mmpretrain::repvgg/repvgg-A0_8xb32_in1k.py', True),
    'DenseNet': Supported('classifier', 'mmpretrain::densenet/densenet121_4xb256_in1k.py'),
    'ConvNeXt': Supported('classifier', 'mmpretrain::convnext/convnext-tiny_32xb128_in1k.py'),
    'DeiT': Supported('classifier', 'mmpretrain::deit/deit-tiny_4xb256_in1k.py'),
    'Swin': Supported('classifier', 'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py'),
    'PoolFormer': Supported('classifier', 'mmpretrain::poolformer/poolformer-s12_32xb128_in1k.py'),
}
