"""Which layers see the image and which predict, of the architectures that the frameworks ship."""

from fnmatch import fnmatchcase

import mmdet
import mmpretrain
import pytest
from torch import nn

from mmacs.quantization import Recipe

from .test_architectures import shipped_model

DETECTORS = {
    'retinanet/retinanet_r18_fpn_1x_coco.py': 'bbox_head.retina_cls bbox_head.retina_reg',
    'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py': 'bbox_head.conv_cls bbox_head.conv_reg bbox_head.conv_centerness',
    'yolox/yolox_tiny_8xb8-300e_coco.py': 'bbox_head.multi_level_conv_???.*',
    'rtmdet/rtmdet_tiny_8xb32-300e_coco.py': 'bbox_head.rtm_cls.* bbox_head.rtm_reg.*',
    'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py': 'rpn_head.rpn_cls rpn_head.rpn_reg roi_head.bbox_head.?.fc_???',
    'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py': (
        'rpn_head.rpn_cls rpn_head.rpn_reg roi_head.bbox_head.fc_??? roi_head.mask_head.conv_logits'
    ),
    'detr/detr_r50_8xb2-150e_coco.py': 'bbox_head.fc_cls bbox_head.fc_reg',
    'solov2/solov2-light_r18_fpn_ms-3x_coco.py': 'mask_head.conv_cls mask_head.conv_kernel',
    'ssd/ssd300_coco.py': 'bbox_head.cls_convs.?.0 bbox_head.reg_convs.?.0',
    'ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py': 'bbox_head.cls_convs.?.1 bbox_head.reg_convs.?.1',
    'yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py': 'bbox_head.convs_pred.?',
    'yolof/yolof_r50-c5_8xb8-1x_coco.py': 'bbox_head.cls_score bbox_head.bbox_pred bbox_head.object_pred',
    'centernet/centernet_r18_8xb16-crop512-140e_coco.py': (
        'bbox_head.heatmap_head.2 bbox_head.wh_head.2 bbox_head.offset_head.2'
    ),
    'reppoints/reppoints-moment_r50_fpn_1x_coco.py': (
        'bbox_head.reppoints_cls_out bbox_head.reppoints_pts_init_out bbox_head.reppoints_pts_refine_out'
    ),
    'dyhead/atss_r50_fpn_dyhead_1x_coco.py': 'bbox_head.atss_cls bbox_head.atss_reg bbox_head.atss_centerness',
    'dab_detr/dab-detr_r50_8xb2-50e_coco.py': 'bbox_head.fc_cls bbox_head.fc_reg.layers.2',
    'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py': 'bbox_head.cls_branches.? bbox_head.reg_branches.?.4',
    'dino/dino-4scale_r50_8xb2-12e_coco.py': 'bbox_head.cls_branches.? bbox_head.reg_branches.?.4',
    'condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py': (
        'bbox_head.conv_cls bbox_head.conv_reg bbox_head.conv_centerness bbox_head.controller '
        'mask_head.mask_feature_head.conv_pred'
    ),
    'scnet/scnet_r50_fpn_1x_coco.py': (
        'rpn_head.rpn_cls rpn_head.rpn_reg roi_head.bbox_head.?.fc_??? roi_head.mask_head.conv_logits '
        'roi_head.semantic_head.conv_logits roi_head.feat_relay_head.fc roi_head.glbctx_head.fc'
    ),
    'mask2former/mask2former_r50_8xb2-lsj-50e_coco.py': 'panoptic_head.cls_embed panoptic_head.mask_embed.4',
}
CLASSIFIERS = {
    'resnet/resnet18_8xb32_in1k.py': ('backbone.conv1', 'head.fc'),
    'deit/deit-tiny_4xb256_in1k.py': ('backbone.patch_embed.projection', 'head.layers.head'),
    'vgg/vgg11_8xb32_in1k.py': ('backbone.features.0.conv', 'backbone.classifier.6'),
    'mobilenet_v3/mobilenet-v3-small_8xb128_in1k.py': ('backbone.layer0.conv', 'head.layers.1.fc'),
    'repvgg/repvgg-A0_8xb32_in1k.py': ('backbone.stem.branch_?x?.conv', 'head.fc'),
    'vision_transformer/vit-base-p32_64xb64_in1k.py': ('backbone.patch_embed.projection', 'head.layers.head'),
    'deit/deit-tiny-distilled_4xb256_in1k.py': (
        'backbone.patch_embed.projection',
        'head.layers.head head.layers.head_dist',
    ),
    'conformer/conformer-tiny-p16_8xb128_in1k.py': ('backbone.conv1', 'head.conv_cls_head head.trans_cls_head'),
    'efficientformer/efficientformer-l1_8xb128_in1k.py': (
        'backbone.patch_embed.0.conv',
        'head.head head.dist_head',
    ),
    'levit/levit-128s_8xb256_in1k.py': ('backbone.patch_embed.patch_embed.0.conv', 'head.head*.linear'),
}


def layers_of(role, model):
    """Names of the layers that a rule for this role reaches."""
    resolved = Recipe(dict(preset='w4a4', rules=[dict(role=role, weight=dict(bits=7))])).resolve(model)
    return {name for name, settings in resolved.items() if settings['weight'] and settings['weight']['bits'] == 7}


def layers_named(patterns, model):
    """Names of modules that match one of the patterns; each of the patterns has to match some."""
    names = [name for name, module in model.named_modules() if hasattr(module, 'weight')]
    matches = [{name for name in names if fnmatchcase(name, pattern)} for pattern in patterns.split()]
    assert all(matches)
    return set().union(*matches)


@pytest.mark.parametrize(('path', 'predicting'), DETECTORS.items())
def test_prediction_layers_of_detectors(path, predicting):
    model = shipped_model(mmdet, path)
    assert layers_of('prediction', model) == layers_named(predicting, model)


@pytest.mark.parametrize(('path', 'roles'), CLASSIFIERS.items())
def test_input_and_prediction_layers_of_classifiers(path, roles):
    model = shipped_model(mmpretrain, path)
    for role, patterns in zip(('input', 'prediction'), roles):
        assert layers_of(role, model) == layers_named(patterns, model)


def test_every_backbone_has_a_layer_that_sees_its_input():
    model = nn.ModuleDict(
        {
            'backbone': nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)),
            'depth_backbone': nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1)),
            'head': nn.ModuleDict({'fc': nn.Linear(4, 2)}),
        }
    )
    assert layers_of('input', model) == {'backbone.0', 'depth_backbone.0'}
    assert layers_of('prediction', model) == {'head.fc'}


def test_first_layer_that_can_be_quantized_is_not_taken_for_the_first_of_all():
    class OwnConv(nn.Conv2d):
        """Not of a type that is quantized."""

    model = nn.Sequential(OwnConv(8, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1))
    assert layers_of('prediction', model) == {'3'}
    resolved = Recipe('w4a4').resolve(model)
    assert [settings['weight']['bits'] for settings in resolved.values()] == [4, 4, 8]


def test_a_model_without_a_head_has_its_first_and_last_layer_told_by_order():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(8, 2))
    assert layers_of('input', model) == {'0'}
    assert layers_of('prediction', model) == {'4'}
