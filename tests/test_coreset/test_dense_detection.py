import copy
import math

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.structures import InstanceData

from mmacs.coreset.scorers import ClassificationScorer, DenseDetectionScorer
from mmacs.coreset.scorers.dense_detection import dense_disagreement, dense_error, dense_predictions
from mmacs.coreset.scoring import score_images, split_by_padded_shape
from mmacs.coreset.teacher import make_teacher
from mmacs.coreset.view import ScoringView
from mmacs.errors import MmacsError
from mmacs.quantization import calibrate, quantize_model

from ..conftest import SHIPPED
from .test_view import PIPELINE, coco


def iou(a, b, over_first=False):
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return w * h / (area[0] if over_first else area[0] + area[1] - w * h)


def random_boxes(count):
    corner = torch.rand(count, 2) * 60
    return torch.cat([corner, corner + 5 + torch.rand(count, 2) * 40], 1)


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
    per_level = [[cost for cost, number in found if number == level] for level in (0, 1)]
    expected = np.mean([np.mean(costs) for costs in per_level if costs])
    background = []
    for probs, boxes in levels:
        for p, candidate in zip(probs.tolist(), boxes.tolist()):
            free = all(iou(candidate, box) < 0.5 for box in objects.tolist())
            if free and all(iou(candidate, box, over_first=True) < 0.5 for box in ignored.tolist()):
                background.append((max(p), math.hypot(*p)))
    assert len(background) > 3
    expected += np.mean([norm for _, norm in sorted(background, reverse=True)[:3]])
    assert dense_error(levels, objects, labels, ignored, 3).item() == pytest.approx(expected, rel=1e-4)


def test_disagreement_equals_a_loop_and_vanishes_for_equal_models():
    probs, teacher = torch.rand(2, 6, 3), torch.rand(2, 6, 3)
    boxes, teacher_boxes = random_boxes(12).view(2, 6, 4), random_boxes(12).view(2, 6, 4)
    counted = torch.rand(2, 6) > 0.3
    got = dense_disagreement(probs, teacher, boxes, teacher_boxes, counted)
    for i in range(2):
        gap = mass = 0.0
        for j in range(6):
            if counted[i, j]:
                confidence = teacher[i, j].max().item()
                mass += confidence
                gap += math.dist(probs[i, j].tolist(), teacher[i, j].tolist())
                gap += confidence * (1 - iou(boxes[i, j].tolist(), teacher_boxes[i, j].tolist()))
        assert got[i].item() == pytest.approx(gap / (1 + mass), rel=1e-4)
    assert dense_disagreement(probs, probs, boxes, boxes, counted).abs().max() < 1e-6


def test_a_perfect_detection_has_no_object_error_whatever_the_number_of_objects():
    for count in (1, 20):
        objects = torch.tensor([[10.0 * i, 0, 10 * i + 8, 8] for i in range(count)])
        labels = torch.zeros(count, dtype=torch.long)
        probs = torch.tensor([[1.0, 0.0]]).repeat(count, 1)
        assert dense_error([(probs, objects)], objects, labels, torch.zeros(0, 4), 5).item() == pytest.approx(0)


def test_images_without_objects_and_crowds():
    probs, boxes = torch.tensor([[0.6, 0.8], [0.3, 0.4]]), torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    nothing, none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
    assert dense_error([(probs, boxes)], nothing, none, nothing, 1).item() == pytest.approx(1.0)
    # a candidate within a crowd is not background
    assert dense_error([(probs, boxes)], nothing, none, torch.tensor([[0.0, 0, 30, 30]]), 1).item() == pytest.approx(
        0.5
    )


@pytest.fixture
def models(tiny_retinanet, tiny_coco):
    """A quantized narrow RetinaNet that is not all noise, its teacher, and a view of 12 images of three shapes."""
    from mmdet.registry import DATASETS

    model = MODELS.build(tiny_retinanet)
    torch.nn.init.normal_(model.bbox_head.retina_cls.weight, std=0.3)
    quantize_model(model, 'w2a2')
    view = ScoringView(DATASETS.build(coco(tiny_coco)), PIPELINE)
    batch = model.data_preprocessor({key: [value] for key, value in view[0].items()}, False)
    calibrate(model, [batch], lambda data: model(**data, mode='predict'))
    return model, make_teacher(model), view


def test_score_is_independent_of_the_batch_and_of_the_workers(models):
    alone = score_images(DenseDetectionScorer(32, 8), *models, batch_size=1, num_workers=0)
    together = score_images(DenseDetectionScorer(32, 8), *models, batch_size=5, num_workers=2)
    assert set(alone) == {'evs', 'ds'}
    for name in alone:
        np.testing.assert_allclose(together[name], alone[name], rtol=1e-4, atol=1e-5)
        assert np.ptp(alone[name]) > 1e-3


def test_images_padded_alike_go_together(models):
    model, _, view = models
    batch = {key: [view[i][key] for i in range(6)] for key in view[0]}
    parts = split_by_padded_shape(model, batch)
    assert sorted(member for members, _, _ in parts for member in members) == list(range(6))
    for members, inputs, _ in parts:
        alone = model.data_preprocessor({key: [values[members[0]]] for key, values in batch.items()}, False)['inputs']
        assert torch.equal(inputs[0], alone[0])


def test_scoring_changes_nothing(models):
    model, teacher, view = models
    model.train()
    state = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    score_images(DenseDetectionScorer(32, 8), model, teacher, view, batch_size=4, num_workers=0)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_the_teacher_disagrees_with_the_quantized_model_and_not_with_itself(models):
    model, teacher, view = models
    assert score_images(DenseDetectionScorer(), model, teacher, view, 4, 0)['ds'].min() > 1e-3
    assert score_images(DenseDetectionScorer(), teacher, teacher, view, 4, 0)['ds'].max() < 1e-6


def test_an_uncalibrated_model_is_not_scored(tiny_retinanet, models):
    _, teacher, view = models
    with pytest.raises(MmacsError, match='never calibrated'):
        score_images(DenseDetectionScorer(), quantize_model(MODELS.build(tiny_retinanet)), teacher, view, 4, 0)


@pytest.mark.parametrize(
    'name',
    [
        'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
        'atss/atss_r50_fpn_1x_coco.py',
        'gfl/gfl_r50_fpn_1x_coco.py',
        'yolox/yolox_tiny_8xb8-300e_coco.py',
        'rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    ],
)
def test_decoded_boxes_are_those_that_the_head_predicts(name):
    from mmengine.config import Config

    from ..test_quantization.test_convert import images

    cfg = Config.fromfile(SHIPPED / name).model
    cfg.backbone.init_cfg = None
    model = MODELS.build(cfg).eval()
    data = model.data_preprocessor(images(80), False)
    scorer = DenseDetectionScorer(num_candidates=10**6)
    scorer.check(model)
    with torch.no_grad():
        outputs = model.bbox_head(model.extract_feat(data['inputs']))
        metas = [dict(data['data_samples'][0].metainfo, img_shape=(10**6, 10**6))]
        test_cfg = copy.deepcopy(model.test_cfg)
        test_cfg.update(score_thr=-1, nms_pre=-1, max_per_img=10**6, nms=dict(type='nms', iou_threshold=1.0))
        predicted = model.bbox_head.predict_by_feat(
            *outputs, batch_img_metas=metas, cfg=test_cfg, rescale=False, with_nms=False
        )[0]
        from mmacs.coreset.scorers.dense_detection import _gather

        ours = []
        for level in dense_predictions(model, data['inputs']):
            ours.append(_gather(model.bbox_head, level, torch.arange(level.probs.shape[1])[None])[1][0])
    assert isinstance(predicted, InstanceData)
    known = torch.cat(ours)
    # every predicted box is among ours (one row per class there), but for those that the head clips to the image
    for box in predicted.bboxes[::97]:
        inside = known.clamp(min=0)
        assert torch.minimum((known - box).abs().amax(1), (inside - box).abs().amax(1)).min() < 1e-2


@pytest.mark.parametrize(
    'name',
    [
        'tood/tood_r50_fpn_1x_coco.py',
        'foveabox/fovea_r50_fpn_4xb4-1x_coco.py',
        'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    ],
)
def test_detectors_whose_boxes_it_cannot_decode_are_refused(name):
    from mmengine.config import Config

    cfg = Config.fromfile(SHIPPED / name).model
    cfg.backbone.init_cfg = None
    with pytest.raises(MmacsError, match='one-stage detectors with anchors or points whose boxes it can decode'):
        DenseDetectionScorer().check(MODELS.build(cfg))


def test_many_confident_duplicates_do_not_hide_other_objects():
    # the number of anchors on one object must not change the error of another
    objects, labels = torch.tensor([[0.0, 0, 20, 20], [60, 60, 90, 90]]), torch.zeros(2, dtype=torch.long)
    sure, faint = torch.tensor([[0.9, 0.0]]), torch.tensor([[0.3, 0.0]])
    errors = []
    for duplicates in (1, 2000):
        probs = torch.cat([sure.repeat(duplicates, 1), faint])
        boxes = torch.cat([objects[:1].repeat(duplicates, 1), objects[1:]])
        errors.append(dense_error([(probs, boxes)], objects, labels, torch.zeros(0, 4), 8).item())
    assert errors[0] == pytest.approx(errors[1])


def test_scorers_refuse_models_that_they_cannot_score(tiny_retinanet):
    with pytest.raises(MmacsError, match='one-stage detectors'):
        DenseDetectionScorer().check(torch.nn.Linear(1, 1))
    with pytest.raises(MmacsError, match='MMPreTrain classifiers, not RetinaNet'):
        ClassificationScorer().check(MODELS.build(tiny_retinanet))
