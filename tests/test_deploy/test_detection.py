"""Detections of a fixed size, beside what MMDetection's detectors predict."""

import copy

import mmdet
import pytest
import torch
from mmpretrain.registry import MODELS

from mmacs.adapters.kinds import DenseLevel, DetectionRules
from mmacs.deploy.detection import detector_outputs, raw_outputs
from mmacs.deploy.detection.candidates import UNUSED, Candidates, best, dense_candidates
from mmacs.deploy.detection.suppression import suppressed
from mmacs.utils.errors import MmacsError
from tests.test_deploy.classifiers import classifier
from tests.test_deploy.detectors import DETECTORS, QUERIES, detector, samples
from tests.test_quantization.test_architectures import shipped_model


def settings(model):
    """The test settings that decide how many detections there are."""
    return model.roi_head.test_cfg if hasattr(model, 'roi_head') else model.bbox_head.test_cfg


def predicted(model, images):
    found = model.predict(images, samples(len(images), *images.shape[-2:]), rescale=False)
    return [sample.pred_instances for sample in found]


def assert_equal_detections(found, expected):
    """The same detections, in the same order but for equal scores, and nothing in the rows after them."""
    boxes, scores, labels = found
    for image, own in enumerate(expected):
        count = min(len(own), scores.shape[1])
        torch.testing.assert_close(scores[image, :count], own.scores[:count], rtol=0, atol=1e-5)
        same = (labels[image, :count, None] == own.labels[:count]) & torch.isclose(
            scores[image, :count, None], own.scores[:count], rtol=0, atol=1e-5
        )
        same &= torch.isclose(boxes[image, :count, None], own.bboxes[:count], rtol=0, atol=1e-3).all(-1)
        assert same.any(0).all() and same.any(1).all()
        assert not boxes[image, count:].any() and not scores[image, count:].any() and not labels[image, count:].any()


@pytest.mark.parametrize('name', DETECTORS)
@torch.no_grad()
def test_detections_are_those_that_the_detector_predicts(name):
    model = detector(name)
    if name not in QUERIES:
        settings(model).max_per_img = 150
    for shape, at_least in (((1, 3, 96, 128), 20), ((3, 3, 160, 96), 20)):
        images = torch.randn(shape)
        expected, found = predicted(model, images), detector_outputs(model)(images)
        assert min(map(len, expected)) >= at_least and len({len(one) for one in found}) == 1
        assert_equal_detections(found, expected)
    if name in ('RetinaNet', 'YOLOX', 'FasterRCNN'):
        assert max(map(len, expected)) > 100
    if name not in QUERIES:  # which have no threshold
        settings(model).score_thr = 1.1
        assert not any(map(len, predicted(model, images)))
        assert not any(part.any() for part in detector_outputs(model)(images))


@torch.no_grad()
def test_options_stand_for_test_settings():
    model, images = detector('RetinaNet'), torch.randn(2, 3, 96, 96)
    found = detector_outputs(model, max_detections=30, score_threshold=0.2, class_agnostic=True)(images)
    settings(model).update(max_per_img=30, score_thr=0.2, nms=dict(type='nms', iou_threshold=0.5, class_agnostic=True))
    assert found[0].shape == (2, 30, 4)
    assert_equal_detections(found, predicted(model, images))
    assert_equal_detections(detector_outputs(model)(images), predicted(model, images))
    few = detector_outputs(model, max_candidates=3)(images)
    settings(model).nms_pre = 3
    assert_equal_detections(few, predicted(model, images))


@torch.no_grad()
def test_small_boxes_and_those_outside_are_no_detections():
    model, images = detector('RetinaNet'), torch.randn(1, 3, 64, 64)
    settings(model).min_bbox_size = 40
    expected = predicted(model, images)
    assert 0 < len(expected[0]) < 100
    assert_equal_detections(detector_outputs(model)(images), expected)


@torch.no_grad()
def test_every_anchor_of_a_head_without_a_limit_is_a_candidate_but_for_an_option():
    model, images = detector('YOLOX'), torch.randn(2, 3, 64, 96)
    assert 'nms_pre' not in settings(model) and 'max_per_img' not in settings(model)
    boxes, scores, labels = detector_outputs(model)(images)
    assert boxes.shape == (2, 300, 4) and scores.shape == labels.shape == (2, 300)
    assert_equal_detections((boxes, scores, labels), predicted(model, images))
    few = detector_outputs(model, max_candidates=2)(images)
    assert (few[1] > 0).sum(1).max() <= 3 * 2
    assert torch.equal(few[0][:, 0], boxes[:, 0])


def test_softmax_leaves_the_background_out_and_quality_comes_after_the_threshold():
    logits = torch.tensor([2.0, 0.0, 0.0, -1.0, 0.0, 3.0]).reshape(1, 1, 3, 1, 2)  # two places, three classes
    codes = torch.zeros(1, 1, 4, 1, 2)
    quality = torch.zeros(1, 1, 1, 2)
    level = DenseLevel(logits, codes, quality, (), 'softmax')
    rules = DetectionRules(iou_threshold=0.5, score_threshold=0.2, max_candidates=5)
    found, _ = dense_candidates([level], lambda levels, anchors: anchors[0][..., None].expand(-1, -1, 4), rules)
    probs = logits.softmax(2)[0, 0, :2, 0]  # of two foreground classes at two places
    assert (probs > 0.2).sum() == 1
    assert found.scores[0].tolist() == pytest.approx([probs.max().item() / 2, *[UNUSED] * 4])
    assert found.labels[0, 0] == 0 and found.boxes[0, 0, 0] == 0


def test_there_may_be_fewer_scores_than_are_asked_for():
    scores, places = best(torch.tensor([[0.1, 0.3]]), 4)
    assert scores.tolist() == [[pytest.approx(0.3), pytest.approx(0.1), UNUSED, UNUSED]]
    assert places.tolist() == [[1, 0, 0, 0]]


def test_of_equal_scores_the_first_come_first():
    scores = torch.randint(-4, 4, (2, 1000)) / 4
    scores[0, ::7] = -0.0
    found, places = best(scores, 600)
    expected = scores.sort(descending=True, stable=True)
    assert torch.equal(found, expected.values[:, :600]) and torch.equal(places, expected.indices[:, :600])


def test_boxes_compete_within_their_group_alone():
    box = torch.tensor([10.0, 10, 20, 20])
    boxes = torch.stack([box, box + 1, box, box - 100])[None]
    candidates = Candidates(boxes, torch.tensor([[0.5, 0.9, 0.7, UNUSED]]), torch.tensor([[0, 0, 1, 1]]))
    assert suppressed(candidates, 0.5, 3, candidates.labels).scores[0].tolist() == pytest.approx([0.9, 0.7, UNUSED])
    alone = suppressed(candidates, 0.5, 3)
    assert alone.scores[0].tolist() == pytest.approx([0.9, UNUSED, UNUSED])
    assert torch.equal(alone.boxes[0, 0], box + 1) and alone.labels[0, 0] == 0


@torch.no_grad()
def test_raw_outputs_are_the_heads_own():
    images = torch.randn(1, 3, 96, 96)
    model = detector('FCOS')
    raw = raw_outputs(model)
    outputs = raw(images)
    expected = model.bbox_head(model.extract_feat(images))
    names = [f'{part}_{level}' for part in ('cls_score', 'bbox_pred', 'score_factor') for level in range(5)]
    assert list(raw.names) == names
    for one, other in zip(outputs, [maps for part in expected for maps in part]):
        assert torch.equal(one, other)

    model = detector('FasterRCNN')
    raw = raw_outputs(model)
    proposals, objectness, probs, boxes = raw(images)
    assert raw.names == ('proposals', 'objectness', 'cls_score', 'bbox_pred')
    assert proposals.shape == (1, 200, 4) and probs.shape == (1, 200, 6) and boxes.shape == (1, 200, 5, 4)
    own = model.rpn_head.predict(model.extract_feat(images), samples(1, 96, 96))[0]
    torch.testing.assert_close(proposals[0, : len(own)], own.bboxes)
    torch.testing.assert_close(objectness[0, : len(own)], own.scores)


def test_what_makes_detections_in_another_way_is_refused():
    for path in (
        'paa/paa_r50_fpn_1x_coco.py',
        'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
        'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py',
        'yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py',
    ):
        with pytest.raises(MmacsError, match='detections is not known here.*raw outputs'):
            detector_outputs(shipped_model(mmdet, path))
    for setting in ({'class_agnostic': True}, {'max_candidates': 9}):
        with pytest.raises(MmacsError, match=f'{[*setting][0]} is for suppression, which a DETR does without'):
            detector_outputs(detector('DETR'), **setting)
    model = detector('RetinaNet')
    settings(model).nms = dict(type='soft_nms', iou_threshold=0.5)
    with pytest.raises(MmacsError, match="nms=.*'soft_nms'.*cannot be exported"):
        detector_outputs(model)
    model.bbox_head.test_cfg = None
    with pytest.raises(MmacsError, match='RetinaHead has no test_cfg'):
        detector_outputs(model)
    with pytest.raises(MmacsError, match='ResNet is no detector'):
        detector_outputs(copy.deepcopy(model.backbone))


@torch.no_grad()
def test_a_classifier_gives_the_probabilities_that_it_predicts():
    model, images = classifier('ResNet-18'), torch.randn(3, 3, 32, 32)
    raw = raw_outputs(model)
    (scores,) = raw(images)
    assert raw.names == ('scores',)
    torch.testing.assert_close(scores, torch.stack([found.pred_score for found in model.predict(images)]))
    model.head = MODELS.build(dict(type='MultiLabelLinearClsHead', num_classes=10, in_channels=64)).eval()
    (scores,) = raw_outputs(model)(images)
    torch.testing.assert_close(scores, torch.stack([found.pred_score for found in model.predict(images)]))
    assert scores.sum(1).max() > 1.5
