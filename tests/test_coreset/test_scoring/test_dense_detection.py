import copy
import math

import mmdet
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config

from mmacs.adapters.base import adapter_of
from mmacs.coreset.scoring.scorers import DenseDetectionScorer
from mmacs.coreset.scoring.scorers.dense_places import probabilities_at
from mmacs.coreset.scoring.scorers.detection_scores import Candidates, disagreement, error_vectors, most_confident
from mmacs.utils.errors import MmacsError
from tests.conftest import SHIPPED
from tests.test_quantization.test_architectures import seem_trained, shipped_model


def iou(a, b, over_first=False):
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return w * h / (area[0] if over_first else area[0] + area[1] - w * h)


def random_boxes(count):
    corner = torch.rand(count, 2) * 60
    return torch.cat([corner, corner + 5 + torch.rand(count, 2) * 40], 1)


def candidates(*levels):
    """Candidates of one image from pairs of probabilities and boxes."""
    probs, boxes = (torch.cat(parts)[None] for parts in zip(*levels))
    level = torch.cat([torch.full((len(p),), i) for i, (p, _) in enumerate(levels)])
    return Candidates(probs, boxes, level, torch.arange(len(level))[None])


def error(levels, objects, labels, ignored=None, num_hard_negatives=1):
    ignored = torch.zeros(0, 4) if ignored is None else ignored
    found = candidates(*levels)
    return error_vectors(found, objects[None], labels[None], ignored[None], num_hard_negatives).item()


def test_error_equals_a_loop_over_objects_and_candidates():
    levels = [(torch.rand(8, 3) ** 2, random_boxes(8)), (torch.rand(5, 3) ** 2, random_boxes(5))]
    objects, labels, ignored = random_boxes(4), torch.tensor([0, 2, 2, 1]), random_boxes(1)

    found = []
    for box, label in zip(objects.tolist(), labels.tolist()):
        options = []
        for number, (probs, boxes) in enumerate(levels):
            for p, candidate in zip(probs.tolist(), boxes.tolist()):
                onehot = [float(k == label) for k in range(3)]
                options.append((math.dist(p, onehot) + 1 - iou(candidate, box), number))
        found.append(min(options))
    per_level = [[min(cost, 2.0) for cost, number in found if number == level] for level in (0, 1)]
    expected = np.mean([np.mean(costs) for costs in per_level if costs])
    background = []
    for probs, boxes in levels:
        for p, candidate in zip(probs.tolist(), boxes.tolist()):
            free = all(iou(candidate, box) < 0.5 for box in objects.tolist())
            if free and all(iou(candidate, box, over_first=True) < 0.5 for box in ignored.tolist()):
                background.append((max(p), math.hypot(*p)))
    assert len(background) > 3
    expected += np.mean([norm for _, norm in sorted(background, reverse=True)[:3]])
    assert error(levels, objects, labels, ignored, 3) == pytest.approx(expected, rel=1e-4)


def test_disagreement_equals_a_loop_and_vanishes_for_equal_models():
    probs, teacher, overlap = torch.rand(2, 6, 3), torch.rand(2, 6, 3), torch.rand(2, 6)
    counted = torch.rand(2, 6) > 0.3
    got = disagreement(probs, teacher, overlap, counted)
    for i in range(2):
        gap = mass = 0.0
        for j in np.flatnonzero(counted[i]):
            weight = max(probs[i, j].max().item(), teacher[i, j].max().item())
            move = math.dist(probs[i, j].tolist(), teacher[i, j].tolist())
            gap += weight * (move + teacher[i, j].max().item() * (1 - overlap[i, j].item()))
            mass += weight
        assert got[i].item() == pytest.approx(gap / mass, rel=1e-4)
    assert disagreement(probs, probs, torch.ones(2, 6), counted).abs().max() < 1e-6
    assert disagreement(probs, teacher, overlap, counted & False).tolist() == [0, 0]


def test_disagreement_is_that_of_one_object_however_often_it_is_there():
    probs, teacher, overlap = torch.rand(1, 6, 3), torch.rand(1, 6, 3), torch.rand(1, 6)
    once = disagreement(probs, teacher, overlap, torch.ones(1, 6))
    often = [part.repeat(1, 9, *[1] * (part.dim() - 2)) for part in (probs, teacher, overlap)]
    torch.testing.assert_close(disagreement(*often, torch.ones(1, 54)), once)


def test_a_perfect_detection_has_no_object_error_whatever_the_number_of_objects():
    for count in (1, 20):
        objects = torch.tensor([[10.0 * i, 0, 10 * i + 8, 8] for i in range(count)])
        probs = torch.tensor([[1.0, 0.0]]).repeat(count, 1)
        assert error([(probs, objects)], objects, torch.zeros(count, dtype=torch.long)) == pytest.approx(0)


def test_images_without_objects_and_crowds():
    level = torch.tensor([[0.6, 0.8], [0.3, 0.4]]), torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    nothing = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
    assert error([level], *nothing) == pytest.approx(1.0)
    # a candidate within a crowd is not background
    assert error([level], *nothing, torch.tensor([[0.0, 0, 30, 30]])) == pytest.approx(0.5)


def test_an_object_that_nothing_detects_costs_2():
    objects, labels = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([0])
    wrong = torch.tensor([[0.0, 0.9]]), torch.tensor([[0.0, 0, 30, 30]])
    assert error([wrong], objects, labels, torch.tensor([[0.0, 0, 90, 90]])) == pytest.approx(2)
    nothing = Candidates(torch.zeros(1, 0, 2), torch.zeros(1, 0, 4), torch.zeros(0).long(), torch.zeros(1, 0).long())
    assert error_vectors(nothing, objects[None], labels[None], torch.zeros(1, 0, 4), 3).tolist() == [2]


def test_many_confident_duplicates_do_not_hide_other_objects():
    # the number of candidates on one object must not change the error of another
    objects, labels = torch.tensor([[0.0, 0, 20, 20], [60, 60, 90, 90]]), torch.zeros(2, dtype=torch.long)
    sure, faint = torch.tensor([[0.9, 0.0]]), torch.tensor([[0.3, 0.0]])
    errors = []
    for duplicates in (1, 2000):
        probs = torch.cat([sure.repeat(duplicates, 1), faint])
        boxes = torch.cat([objects[:1].repeat(duplicates, 1), objects[1:]])
        errors.append(error([(probs, boxes)], objects, labels, None, 8))
    assert errors[0] == pytest.approx(errors[1])


def test_the_most_confident_of_each_level_come_first_and_gaps_last():
    probs = torch.tensor([[0.1], [0.9], [0.5], [0.2]])
    found = candidates((probs[:3], torch.zeros(3, 4)), (probs[3:], torch.zeros(1, 4)))
    assert most_confident(found, 2).tolist() == [[1, 2, 3, -1]]
    found = found._replace(key=torch.tensor([[0, -1, -1, 0]]))
    assert most_confident(found, 2).tolist() == [[0, -1, 3, -1]]


@pytest.fixture
def retinanet(tiny_retinanet):
    """A narrow RetinaNet that is not all noise, and two preprocessed images."""
    model = MODELS.build(tiny_retinanet).eval()
    torch.nn.init.normal_(model.bbox_head.retina_cls.weight, std=0.3)
    data = demo_mm_inputs(2, [(3, 64, 96)] * 2, num_items=[3, 2], num_classes=3)
    return model, model.data_preprocessor(data, False)


@torch.no_grad()
def test_one_anchor_stands_for_each_place(retinanet):
    model, data = retinanet
    scorer = DenseDetectionScorer()
    outputs = scorer.outputs(model, **data)
    found = scorer.candidates(model, outputs, data['data_samples'])
    sizes = found.level.bincount().tolist()
    start = 0
    for level, size in zip(adapter_of(model).levels(outputs), sizes):
        assert size == level.num_places
        every = torch.arange(size * 9).expand(2, -1)
        probs = probabilities_at(level, every)
        best = probs.amax(2).unflatten(1, (size, 9))
        keys = found.key[:, start : start + size]
        torch.testing.assert_close(found.probs[:, start : start + size].amax(2), best.amax(2))
        assert (keys == torch.arange(size) * 9 + best.argmax(2)).all()
        start += size


@torch.no_grad()
def test_beyond_the_teachers_candidates_it_is_silent(retinanet):
    model, data = retinanet
    scorer = DenseDetectionScorer(num_candidates=4)
    outputs = scorer.outputs(model, **data)
    teacher_outputs = scorer.teacher_outputs(model, outputs, data['data_samples'], ['ds'])
    assert scorer.score(model, outputs, data['data_samples'], teacher_outputs, ['ds'])['ds'].max() < 2e-3
    kept = teacher_outputs['key'] >= 0  # the coarsest levels have fewer places
    teacher_outputs['key'][:, 0] = -1  # the finest level's surest
    surest = teacher_outputs['probs'][:, 0].float()
    confidence = teacher_outputs['probs'].float().amax(2) * kept
    expected = surest.amax(1) * surest.norm(dim=1) / confidence.sum(1)
    again = scorer.score(model, outputs, data['data_samples'], teacher_outputs, ['ds'])['ds']
    torch.testing.assert_close(again, expected, rtol=1e-2, atol=2e-3)


FCOS = 'fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py'


@pytest.mark.parametrize(
    'name', ['retinanet/retinanet_r18_fpn_1x_coco.py', FCOS, 'vfnet/vfnet_r50_fpn_1x_coco.py', 'reppoints']
)
def test_loss_is_the_heads_own_loss_of_the_image_alone(name):
    name = 'reppoints/reppoints-moment_r50_fpn_1x_coco.py' if name == 'reppoints' else name
    model = shipped_model(mmdet, name)
    data = demo_mm_inputs(2, [(3, 64, 64)] * 2, num_items=[3, 2], num_classes=80)
    data = model.data_preprocessor(data, False)
    scorer = DenseDetectionScorer()
    seem_trained(model.eval(), data)
    with torch.no_grad():
        outputs = scorer.outputs(model, **data)
        scores = scorer.score(model, outputs, data['data_samples'], {}, ['loss', 'grad'])
    assert scores['grad'].min() > 0 and not model.bbox_head.training
    same_in_training = scorer.hooked_module(model) is not None
    model.bbox_head.train()
    for i, sample in enumerate(data['data_samples']):
        with torch.no_grad():
            features = model.extract_feat(data['inputs'][i : i + 1])
            expected = sum(
                torch.as_tensor(sum(v) if isinstance(v, list) else v) for v in _loss(model, features, sample)
            )
            if i == 0:  # a head is hooked if its outputs are those of eval mode
                training = model.bbox_head(model.extract_feat(data['inputs']))
                first = (outputs if same_in_training else outputs.outputs)[1][0]
                equal = training[1][0].shape == first.shape and torch.allclose(training[1][0], first, rtol=1e-4)
                assert equal == same_in_training
        assert scores['loss'][i].item() == pytest.approx(expected.item(), rel=1e-3)


def _loss(model, features, sample):
    return model.bbox_head.loss(features, [sample]).values()


def test_heads_whose_boxes_it_cannot_decode_have_the_other_columns():
    cfg = Config.fromfile(SHIPPED / 'yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py').model
    cfg.backbone.init_cfg = None
    model = MODELS.build(cfg).eval()
    scorer = DenseDetectionScorer()
    with pytest.raises(MmacsError, match='cannot decode the boxes of YOLOV3Head'):
        scorer.check(model, ['evs', 'sufficiency'])
    columns = ['sufficiency', 'metric_gap', 'loss', 'grad']
    scorer.check(model, columns)
    data = model.data_preprocessor(demo_mm_inputs(2, [(3, 64, 64)] * 2, num_items=[2, 0], num_classes=80), False)
    with torch.no_grad():
        outputs = scorer.outputs(model, **data)
        teacher_outputs = scorer.teacher_outputs(model, outputs, data['data_samples'], columns)
        scores = scorer.score(model, outputs, data['data_samples'], teacher_outputs, columns)
    assert list(teacher_outputs) == ['teacher_ap'] and scores['metric_gap'].tolist() == [0, 0]
    assert all(torch.isfinite(column).all() for column in scores.values())


def test_losses_that_remember_leave_no_trace():
    model = shipped_model(
        mmdet,
        'ghm/retinanet_r50_fpn_ghm-1x_coco.py',
        **{'backbone.base_channels': 8, 'neck.in_channels': [32, 64, 128, 256], 'neck.out_channels': 16},
        **{'bbox_head.in_channels': 16, 'bbox_head.feat_channels': 16},
    ).eval()
    data = model.data_preprocessor(demo_mm_inputs(2, [(3, 64, 64)] * 2, num_items=[3, 2], num_classes=80), False)
    scorer, columns = DenseDetectionScorer(), ['loss', 'grad']
    before = copy.deepcopy(model.bbox_head.state_dict())
    with torch.no_grad():
        outputs, samples = scorer.outputs(model, **data), data['data_samples']
        once = scorer.score(model, outputs, samples, {}, columns)
        last = scorer.score(model, scorer.outputs(model, data['inputs'][1:], samples[1:]), samples[1:], {}, columns)
    for name in columns:
        torch.testing.assert_close(last[name], once[name][1:])
    assert all(torch.equal(value, before[name]) for name, value in model.bbox_head.state_dict().items())


def test_models_that_its_columns_do_not_fit_are_refused(retinanet):
    model, scorer = retinanet[0], DenseDetectionScorer()
    with pytest.raises(MmacsError, match='not RPN'):
        scorer.check(shipped_model(mmdet, 'rpn/rpn_r50_fpn_1x_coco.py'), ['evs'])
    model.bbox_head = MODELS.build(Config.fromfile(SHIPPED / 'ld/ld_r18-gflv1-r101_fpn_1x_coco.py').model.bbox_head)
    scorer.check(model, ['evs', 'ds'])
    with pytest.raises(MmacsError, match='loss cannot be computed for LDHead'):
        scorer.check(model, ['evs', 'loss'])
    model.language_model = torch.nn.Identity()  # as GLIP has
    with pytest.raises(MmacsError, match='of classes in images'):
        scorer.check(model, ['evs'])


@pytest.mark.parametrize('precision', [torch.bfloat16, torch.float32])
def test_what_a_training_forward_gave_is_scored_as_it_is(retinanet, precision):
    model, data = retinanet
    scorer = DenseDetectionScorer()
    taken = []
    handle = scorer.hooked_module(model).register_forward_hook(lambda head, inputs, output: taken.append(output))
    with torch.autocast('cpu', precision, enabled=precision != torch.float32):
        model(**copy.deepcopy(data), mode='loss')
    handle.remove()
    columns = sorted(scorer.training_columns)
    harvested = scorer.score(model, taken[0], data['data_samples'], {}, columns)
    with torch.no_grad():
        direct = scorer.score(model, scorer.outputs(model, **data), data['data_samples'], {}, columns)
    for name in columns:
        assert not harvested[name].requires_grad
        torch.testing.assert_close(harvested[name], direct[name], rtol=0.05, atol=0.02)
