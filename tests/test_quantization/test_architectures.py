"""Every architecture converts from its own shipped config: unchanged while disabled, calibrated, and trained a step."""

import copy
from contextlib import nullcontext
from pathlib import Path

import mmdet
import mmpretrain
import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.structures import DataSample
from torch import nn

from mmacs.cli.supported import MODELS as SUPPORTED
from mmacs.cli.supported import SCORERS
from mmacs.coreset.settings import CoresetSettings
from mmacs.quantization import calibrate, disabled, quantize_model, quantizers
from mmacs.utils.errors import MmacsError

from .test_convert import tensors

ONE_OF_EACH_STAGE = {'encoder.num_layers': 2, 'decoder.num_layers': 2}  # of six equal layers each
FEW_PROPOSALS = {'test_cfg.rpn.max_per_img': 20, 'train_cfg.rpn_proposal.max_per_img': 20}
NARROW_HEAD = {'roi_head.bbox_head.fc_out_channels': 64}
NARROW_HEADS = {f'roi_head.bbox_head.{stage}.fc_out_channels': 64 for stage in range(3)}
# A backbone of basic blocks; CascadeRCNN and the classifiers keep bottlenecks.
SHALLOW = {'backbone.depth': 18, 'neck.in_channels': [64, 128, 256, 512]}
SHALLOW_THREE_LEVELS = {'backbone.depth': 18, 'neck.in_channels': [128, 256, 512]}
SHALLOW_ONE_LEVEL = {'backbone.depth': 18, 'neck.in_channels': [512]}
NARROW = {
    'backbone.depth': 18,
    'backbone.base_channels': 8,
    'neck.in_channels': [8, 16, 32, 64],
    'neck.out_channels': 64,
    'bbox_head.in_channels': 64,
    'bbox_head.feat_channels': 64,
    'bbox_head.stacked_convs': 1,
}
NARROW_QUERIES = {'backbone.depth': 18, 'backbone.base_channels': 8, 'neck.in_channels': [64]}
# An untrained classifier is sure of nothing; without detections the mask head would not run.
SOME_DETECTIONS = {'test_cfg.rcnn.score_thr': 0.0, 'test_cfg.rcnn.max_per_img': 5}
# Shipped config, side of the images in pixels, changes for speed that leave every kind of layer in place.
DETECTORS = {
    'RetinaNet': ('retinanet/retinanet_r18_fpn_1x_coco.py', 64, {}),
    'SSD': ('ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py', 320, {}),
    'FCOS': ('fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', 64, SHALLOW),
    'ATSS': ('atss/atss_r50_fpn_1x_coco.py', 64, SHALLOW),
    'GFL': ('gfl/gfl_r50_fpn_1x_coco.py', 64, NARROW),
    'TOOD': ('tood/tood_r50_fpn_1x_coco.py', 64, {**NARROW, 'bbox_head.feat_channels': 192}),
    'FoveaBox': ('foveabox/fovea_r50_fpn_4xb4-1x_coco.py', 64, NARROW),
    'RepPoints': ('reppoints/reppoints-moment_r50_fpn_1x_coco.py', 64, {**NARROW, 'bbox_head.point_feat_channels': 64}),
    'VFNet': ('vfnet/vfnet_r50_fpn_1x_coco.py', 64, SHALLOW),
    'YOLOX': ('yolox/yolox_tiny_8xb8-300e_coco.py', 64, {}),
    'RTMDet': ('rtmdet/rtmdet_tiny_8xb32-300e_coco.py', 128, {}),
    'CenterNet': ('centernet/centernet_r18_8xb16-crop512-140e_coco.py', 64, {}),
    'FasterRCNN': ('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 64, {**SHALLOW, **FEW_PROPOSALS, **NARROW_HEAD}),
    'CascadeRCNN': ('cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py', 64, {**FEW_PROPOSALS, **NARROW_HEADS}),
    'DETR': ('detr/detr_r50_8xb2-150e_coco.py', 64, {**SHALLOW_ONE_LEVEL, **ONE_OF_EACH_STAGE}),
    'DABDETR': (
        'dab_detr/dab-detr_r50_8xb2-50e_coco.py',
        64,
        {**NARROW_QUERIES, 'num_queries': 20, **ONE_OF_EACH_STAGE},
    ),
    'DeformableDETR': (
        'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
        64,
        {**SHALLOW_THREE_LEVELS, **ONE_OF_EACH_STAGE},
    ),
    'DINO': (
        'dino/dino-4scale_r50_8xb2-12e_coco.py',
        64,
        {'num_queries': 20, **SHALLOW_THREE_LEVELS, **ONE_OF_EACH_STAGE},
    ),
    'MaskRCNN': (
        'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
        64,
        {**SHALLOW, **FEW_PROPOSALS, **NARROW_HEAD, **SOME_DETECTIONS},
    ),
    'CondInst': ('condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py', 64, SHALLOW),
    'RTMDetIns': ('rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py', 64, {}),
}
WITH_MASKS = ('MaskRCNN', 'CondInst', 'RTMDetIns')
CLASSIFIERS = {
    'ResNet': ('resnet/resnet18_8xb32_in1k.py', 64, {}),
    'MobileNetV2': ('mobilenet_v2/mobilenet-v2_8xb32_in1k.py', 64, {}),
    'MobileNetV3': ('mobilenet_v3/mobilenet-v3-small_8xb128_in1k.py', 64, {}),
    'ShuffleNetV2': ('shufflenet_v2/shufflenet-v2-1x_16xb64_in1k.py', 64, {}),
    'EfficientNet': ('efficientnet/efficientnet-b0_8xb32_in1k.py', 64, {}),
    'RepVGG': ('repvgg/repvgg-A0_8xb32_in1k.py', 64, {}),
    'DenseNet': ('densenet/densenet121_4xb256_in1k.py', 64, {}),
    'ConvNeXt': ('convnext/convnext-tiny_32xb128_in1k.py', 64, {}),
    'DeiT': ('deit/deit-tiny_4xb256_in1k.py', 64, {'backbone.img_size': 64}),
    'Swin': ('swin_transformer/swin-tiny_16xb64_in1k.py', 64, {'backbone.pad_small_map': True}),
    'PoolFormer': ('poolformer/poolformer-s12_32xb128_in1k.py', 64, {}),
}
ARCHITECTURES = [*DETECTORS, *CLASSIFIERS]


def without_downloads(cfg):
    """Drop the pretrained weights that a config names, at any depth."""
    if isinstance(cfg, dict):
        if isinstance(cfg.get('init_cfg'), dict) and cfg['init_cfg'].get('type') == 'Pretrained':
            cfg['init_cfg'] = None
        cfg = list(cfg.values())
    for part in cfg if isinstance(cfg, (list, tuple)) else []:
        without_downloads(part)


def shipped_model(library, path, **changes):
    """A model built from a config that MMDetection or MMPreTrain ships."""
    init_default_scope(library.__name__)
    cfg = Config.fromfile(Path(library.__file__).parent / '.mim' / 'configs' / path)
    cfg.merge_from_dict({f'model.{key}': value for key, value in changes.items()})
    without_downloads(cfg.model)
    if library is mmpretrain:
        cfg.model.pop('train_cfg', None)  # Mixup and CutMix belong to the preprocessor, which is not used here
    return MODELS.build(cfg.model)


def build(name):
    """A model with initial weights, and two preprocessed images with their annotations."""
    path, size, changes = {**DETECTORS, **CLASSIFIERS}[name]
    if name in CLASSIFIERS:
        model = shipped_model(mmpretrain, path, **changes)
        data = dict(inputs=torch.randn(2, 3, size, size), data_samples=[DataSample().set_gt_label(i) for i in (1, 2)])
    else:
        model = shipped_model(mmdet, path, **changes)
        shapes = [(3, size, size)] * 2
        data = demo_mm_inputs(2, shapes, num_items=[3, 2], num_classes=80, with_mask=name in WITH_MASKS)
        data = model.data_preprocessor(data, False)
    model.init_weights()
    if name == 'TOOD':
        MessageHub.get_current_instance().update_info('epoch', 0)  # as MMEngine does in a run
    return model.eval(), data


def require_scored(name, model):
    """Require that a coreset can be chosen as `mmacs models` says of a model."""
    path = {**DETECTORS, **CLASSIFIERS}[name][0]
    (row,) = [row for row in SUPPORTED.values() if row.config.partition('::')[2] == path]
    settings = CoresetSettings.read(scorer=dict(type=f'mmacs.{SCORERS[row.kind]}'))
    with nullcontext() if row.scored else pytest.raises(MmacsError, match='cannot decode the boxes'):
        settings.scorer.check(model, settings.scored_columns)


def run(model, data, mode):
    """A forward on a batch of its own: models write into annotations."""
    return model(**copy.deepcopy(data), mode=mode)


@torch.no_grad()
def seem_trained(model, data):
    """Leave no layer at zero, where many start, which hides gradients; fit BatchNorm's statistics to the weights."""
    for parameter in model.parameters():
        parameter.add_(0.01 * torch.randn_like(parameter))
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    run(model, data, 'tensor')
    for norm, momentum in zip(norms, momenta):
        norm.eval()
        norm.momentum = momentum


def record_runs(model):
    """Names of the quantizers that get to see values with gradients enabled, filled while the model runs."""
    ran = set()

    def record(quantizer, args, output):
        if torch.is_grad_enabled() and args[0].numel():
            ran.add(quantizer)

    for _, quantizer in quantizers(model):
        quantizer.register_forward_hook(record)
    return ran


@pytest.fixture(autouse=True)
def _ssd_predicts(monkeypatch):
    """SSDHead of MMDetection 3.2 to 3.5 can't predict: the code it shares asks for a ``loss_cls`` that it lacks."""
    from mmdet.models import SSDHead

    monkeypatch.setattr(SSDHead, 'loss_cls', None, raising=False)


@pytest.mark.parametrize('name', ARCHITECTURES)
def test_disabled_quantizers_leave_the_model_as_it_was(name):
    model, data = build(name)
    kind, state, parameters = type(model), set(model.state_dict()), dict(model.named_parameters())
    with torch.no_grad():
        expected = tensors(run(model, data, 'tensor'))
        assert quantize_model(model) is model
        with disabled(model):
            actual = tensors(run(model, data, 'tensor'))
    assert type(model) is kind
    assert state < set(model.state_dict())
    converted = dict(model.named_parameters())
    assert all(converted[key] is parameter for key, parameter in parameters.items())
    assert len(actual) == len(expected) > 0
    assert all(torch.equal(got, want) for got, want in zip(actual, expected))


# As long as five others each, of layers and heads that others have
LONG = ('Swin', 'CascadeRCNN', 'MaskRCNN', 'ConvNeXt')


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=pytest.mark.thorough if name in LONG else []) for name in ARCHITECTURES]
)
def test_calibrates_and_trains_a_step(name):
    model, data = build(name)
    seem_trained(model, data)
    with torch.no_grad():
        expected = tensors(run(model, data, 'tensor'))
    quantize_model(model)
    require_scored(name, model)
    assert calibrate(model, [data], lambda images: run(model, images, 'predict')) == []
    with torch.no_grad():
        quantized = tensors(run(model, data, 'tensor'))
    assert all(torch.isfinite(output).all() for output in quantized)
    assert not all(got.shape == want.shape and torch.equal(got, want) for got, want in zip(quantized, expected))

    ran = record_runs(model.train())
    loss, _ = model.parse_losses(run(model, data, 'loss'))
    assert torch.isfinite(loss)
    loss.backward()
    assert ran == {quantizer for _, quantizer in quantizers(model)}
    gradients = [p.grad for quantizer in ran for p in quantizer.parameters() if p.requires_grad]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
    # a level without objects, or an input that rounds to zero, leaves some without any
    assert sum(bool(gradient.any()) for gradient in gradients) > 0.5 * len(gradients)

    trained = [parameter for parameter in model.parameters() if parameter.grad is not None]
    before = [parameter.clone() for parameter in trained]
    nn.utils.clip_grad_norm_(trained, 1.0, error_if_nonfinite=True)
    torch.optim.SGD(trained, lr=1e-3).step()
    assert any(not torch.equal(parameter, old) for parameter, old in zip(trained, before))
    loss, _ = model.parse_losses(run(model, data, 'loss'))
    assert torch.isfinite(loss)
