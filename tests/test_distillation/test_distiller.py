"""Distillation terms in the losses of real models."""

from copy import deepcopy

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.hub import get_config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from torch import nn
from torch.testing import assert_close

from mmacs.distillation import Distiller
from mmacs.distillation.capture import match_layers
from mmacs.distillation.losses import soft_cross_entropy
from mmacs.quantization import quantize_model
from mmacs.teacher.model import make_teacher
from mmacs.utils.errors import MmacsError


def images(side=64):
    samples = []
    for _ in range(2):
        sample = DetDataSample(metainfo=dict(img_shape=(side, side), batch_input_shape=(side, side)))
        sample.set_metainfo(dict(pad_shape=(side, side), ori_shape=(side, side), scale_factor=(1.0, 1.0)))
        boxes = torch.tensor([[5.0, 6, 40, 44], [20, 10, 60, 50]])
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 2]))
        samples.append(sample)
    return dict(inputs=torch.randn(2, 3, side, side), data_samples=samples)


def narrow_two_stage(cfg):
    cfg.neck.out_channels = cfg.rpn_head.in_channels = cfg.rpn_head.feat_channels = 16
    cfg.roi_head.bbox_roi_extractor.out_channels = 16
    heads = cfg.roi_head.bbox_head
    for head in heads if isinstance(heads, list) else [heads]:
        head.update(in_channels=16, fc_out_channels=16)
    cfg.train_cfg.rpn_proposal.max_per_img = 50


def detector(name):
    """A narrow detector of a kind, in train mode but for its BatchNorm and dropout."""
    cfg = get_config(f'mmdet::{name}.py').model
    cfg.backbone.update(depth=18, base_channels=8, init_cfg=None, frozen_stages=-1)
    cfg.neck.in_channels = cfg.neck.in_channels if len(cfg.neck.in_channels) == 1 else [8, 16, 32, 64]
    if 'roi_head' in cfg:
        narrow_two_stage(cfg)
    if cfg.neck.in_channels == [2048]:
        cfg.neck.in_channels = [64]
        cfg.decoder.num_layers = cfg.encoder.num_layers = 1
        cfg.num_queries = 10
    model = MODELS.build(cfg)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.train()
    for module in model.modules():
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.Dropout, nn.MultiheadAttention)):
            module.eval()
    return model


DETECTORS = [
    'retinanet/retinanet_r18_fpn_1x_coco',
    'fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco',
    'faster_rcnn/faster-rcnn_r50_fpn_1x_coco',
    'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco',
    'detr/detr_r50_8xb2-150e_coco',
]


@pytest.mark.parametrize('name', DETECTORS, ids=lambda name: name.split('/')[0])
def test_student_and_teacher_predict_the_same_places_in_the_same_code(name):
    model = detector(name)
    teacher, data = make_teacher(model), images()
    distiller = Distiller(model, teacher, form='kl')
    distiller.attach()
    random_state = torch.get_rng_state()
    losses = model(**deepcopy(data), mode='loss')
    for key in ('loss_distill_cls', 'loss_distill_box'):
        assert abs(losses[key].item()) < 1e-5
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    moved = model(**deepcopy(data), mode='loss')
    for key in ('loss_distill_cls', 'loss_distill_box'):
        assert moved[key].item() > 1e-4 + 10 * abs(losses[key].item())
    (moved['loss_distill_cls'] + moved['loss_distill_box']).backward()
    assert model.backbone.conv1.weight.grad.abs().sum() > 0

    assert not any(module.training for module in teacher.modules())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    distiller.detach()
    torch.set_rng_state(random_state)
    plain = model(**deepcopy(data), mode='loss')
    after_plain = torch.get_rng_state()
    torch.set_rng_state(random_state)
    distiller.attach()
    extended = model(**deepcopy(data), mode='loss')
    assert torch.equal(torch.get_rng_state(), after_plain)
    assert set(extended) - set(plain) == {'loss_distill_cls', 'loss_distill_box'}
    for key, value in plain.items():
        assert_close(extended[key], value)


def num_hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.fixture
def retinanet(tiny_retinanet):
    model = MODELS.build(tiny_retinanet)
    return model, make_teacher(model)


def test_the_model_stays_as_it_was_but_for_its_losses(tiny_retinanet):
    model = quantize_model(MODELS.build(tiny_retinanet), 'w4a4').train()
    teacher, hooks, keys = make_teacher(model), num_hooks(model), list(model.state_dict())
    modules = list(model.modules())
    distiller = Distiller(model, teacher, layers='backbone.layer*')
    distiller.attach()
    losses = model(**images(), mode='loss')
    assert {'loss_distill_cls', 'loss_distill_box', 'loss_correction'} < set(losses)
    assert isinstance(model.eval()(**images(), mode='tensor'), tuple)
    assert [sample.pred_instances is not None for sample in model(**images(), mode='predict')] == [True, True]
    distiller.detach()
    assert num_hooks(model) == hooks and num_hooks(teacher) == num_hooks(make_teacher(model))
    assert list(model.state_dict()) == keys and list(model.modules()) == modules
    assert set(model(**images(), mode='loss')) == {'loss_cls', 'loss_bbox'}


def test_weights_scale_the_terms(retinanet):
    model, teacher = retinanet
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.eval()
    data, found = images(), []
    for weights in (dict(weight=1.0), dict(weight=2.0, box_weight=3.0, layer_weight=5.0)):
        distiller = Distiller(model, teacher, layers=['backbone.layer3', 'backbone.layer4'], **weights)
        distiller.attach()
        found.append(model(**deepcopy(data), mode='loss'))
        distiller.detach()
    one, other = found
    for key, factor in (('loss_distill_cls', 2), ('loss_distill_box', 6), ('loss_correction', 5), ('loss_cls', 1)):
        expected = one[key] if isinstance(one[key], torch.Tensor) else sum(one[key])
        actual = other[key] if isinstance(other[key], torch.Tensor) else sum(other[key])
        assert_close(actual, factor * expected)
    features, targets = model.backbone(data['inputs'])[1:], teacher.backbone(data['inputs'])[1:]
    errors = [(f - t).norm() ** 2 / t.norm() ** 2 for f, t in list(zip(features, targets))[-2:]]
    assert_close(one['loss_correction'], sum(errors) / 2)


def test_autocast_reaches_the_teacher_and_the_terms_stay_in_single_precision(retinanet):
    model, teacher = retinanet
    distiller, dtypes = Distiller(model, teacher), []
    teacher.bbox_head.register_forward_hook(lambda module, args, output: dtypes.append(output[0][0].dtype))
    distiller.attach()
    with torch.autocast('cpu', torch.bfloat16):
        losses = model(**images(), mode='loss')
    assert dtypes == [torch.bfloat16]
    assert losses['loss_distill_cls'].dtype == losses['loss_distill_box'].dtype == torch.float32


def classifier(seed):
    cfg = dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet', depth=18, base_channels=8, stem_channels=8),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead', num_classes=5, in_channels=64, loss=dict(type='CrossEntropyLoss'), cal_acc=True
        ),
    )
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(cfg)


@pytest.mark.parametrize('weight', [0.3, 1.0])
def test_a_classifiers_soft_loss_gives_way_to_the_labels(weight):
    pytest.importorskip('mmpretrain')
    from mmpretrain.structures import DataSample

    model, teacher = classifier(0).eval(), make_teacher(classifier(1))
    data = dict(inputs=torch.randn(3, 3, 32, 32), data_samples=[DataSample().set_gt_label(n) for n in range(3)])
    hard = model(**data, mode='loss')
    logits, teacher_logits = (net(data['inputs']) for net in (model, teacher))
    soft = soft_cross_entropy(logits, teacher_logits, 2.0).mean()
    distiller = Distiller(model, teacher, weight=weight, temperature=2.0)
    distiller.attach()
    losses = model(**data, mode='loss')
    total, logged = model.parse_losses(losses)
    assert_close(total, (1 - weight) * hard['loss'] + weight * soft)
    assert_close(logged['loss'], total)
    assert_close(losses['accuracy_top-1'], hard['accuracy_top-1'])
    with pytest.raises(MmacsError, match='weight must be at most 1 for a classifier'):
        Distiller(model, teacher, weight=2.0)
    distiller.detach()

    def read(samples, num_classes):
        assert num_classes == 5
        order = [int(sample.gt_label) for sample in samples]
        return teacher_logits[order].softmax(1).log()  # what a cache of probabilities gives

    kept = Distiller(model, read, weight=weight, temperature=2.0)
    kept.attach()
    assert_close(model.parse_losses(model(**data, mode='loss'))[0], total)


def test_layer_patterns(retinanet):
    model, _ = retinanet
    assert match_layers(model, 'backbone.layer*') == [f'backbone.layer{n}' for n in (1, 2, 3, 4)]
    assert match_layers(model, ['neck', 'backbone.layer?.0.conv1', 'neck'])[-1] == 'neck'
    with pytest.raises(MmacsError, match=r"'backbone.layr1' matches no layer .* near names: .*backbone.layer1"):
        match_layers(model, 'backbone.layr1')


def test_what_does_not_correspond_is_refused(retinanet, tiny_retinanet):
    model, teacher = retinanet
    tiny_retinanet['bbox_head'].update(num_classes=4)
    distiller = Distiller(model, MODELS.build(tiny_retinanet).eval(), same_start=False)
    distiller.attach()
    with pytest.raises(MmacsError, match=r"teacher's class logits have shape .*, 36\).* 27\)|with the same head"):
        model(**images(), mode='loss')
    distiller.detach()
    with pytest.raises(MmacsError, match="the teacher, a FasterRCNN, does not predict at the student's places, a Reti"):
        Distiller(model, detector('faster_rcnn/faster-rcnn_r50_fpn_1x_coco'), same_start=False)
    model.backbone.extra = nn.Conv2d(1, 1, 1)
    with pytest.raises(MmacsError, match="teacher has no layer 'backbone.extra'"):
        Distiller(model, teacher, layers='backbone.*')
    teacher.backbone.extra = nn.Conv2d(1, 1, 1)
    idle = Distiller(model, teacher, layers='backbone.extra')
    idle.attach()
    with pytest.raises(MmacsError, match='choose a layer that both run'):
        model(**images(), mode='loss')


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('dino/dino-4scale_r50_8xb2-12e_coco', 'cannot distil DINO: its queries are drawn from denoising'),
        ('yolo/yolov3_mobilenetv2_8xb24-320-300e_coco', 'not YOLOV3'),
    ],
)
def test_unsupported_detectors(name, message):
    cfg = get_config(f'mmdet::{name}.py').model
    cfg.backbone.init_cfg = None
    model = MODELS.build(cfg)
    with pytest.raises(MmacsError, match=message):
        Distiller(model, model)


def test_a_teacher_that_does_not_run_has_no_places_and_no_features(retinanet):
    model, _ = retinanet
    with pytest.raises(MmacsError, match='from_cache distils classifiers, not a RetinaNet: .*: leave out from_cache'):
        Distiller(model, lambda samples, num_classes: None)
    with pytest.raises(MmacsError, match="layers='neck' corrects features .*: leave out layers or from_cache"):
        Distiller(model, lambda samples, num_classes: None, layers='neck')


def test_queries_of_another_detr_do_not_correspond():
    model = detector('detr/detr_r50_8xb2-150e_coco')
    with pytest.raises(MmacsError, match='leave out teacher'):
        Distiller(model, make_teacher(model), same_start=False)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(weight=0), 'weight must be a number above 0, got 0'),
        (dict(temperature=-1.0), 'temperature must be a number above 0'),
        (dict(box_weight='1'), 'box_weight must be a number of at least 0'),
        (dict(form='KL'), "unknown form 'KL'"),
    ],
)
def test_wrong_settings(retinanet, settings, message):
    with pytest.raises(MmacsError, match=message):
        Distiller(*retinanet, **settings)
