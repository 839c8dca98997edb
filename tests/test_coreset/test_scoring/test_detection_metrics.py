import numpy as np
import pytest

from mmacs.coreset.scoring.scorers.detection_metrics import (
    Boxes,
    average_precision,
    match,
    overlaps,
    precision_and_recall,
)

NOTHING = np.zeros((0, 4))
NO_OBJECTS = Boxes(NOTHING, np.zeros(0, dtype=int))
NO_DETECTIONS = Boxes(NOTHING, np.zeros(0, dtype=int))
TWO = Boxes(np.array([[0.0, 0, 10, 10], [20, 20, 40, 40]]), np.array([0, 1]))


def found(boxes, labels, scores):
    return Boxes(np.asarray(boxes, dtype=float).reshape(-1, 4), np.asarray(labels), np.asarray(scores, dtype=float))


def test_average_precision_equals_cocos_for_one_class():
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(0)
    truth = rng.uniform(0, 60, (12, 4))
    truth[:, 2:] = truth[:, :2] + rng.uniform(20, 40, (12, 2))
    boxes = np.concatenate([truth + rng.normal(0, 2, truth.shape), truth[::-1] + rng.normal(0, 3, truth.shape)])
    scores = np.sort(rng.uniform(size=len(boxes)))[::-1]
    rng.shuffle(boxes)
    crowd = np.array([[0.0, 0, 35, 35]])

    def entry(number, box, **more):
        x1, y1, x2, y2 = box.tolist()
        size = dict(bbox=[x1, y1, x2 - x1, y2 - y1], area=(x2 - x1) * (y2 - y1))
        return dict(id=number, image_id=1, category_id=1, **size, **more)

    coco = COCO()
    annotations = [entry(i + 1, box, iscrowd=0) for i, box in enumerate(truth)]
    coco.dataset = dict(images=[dict(id=1)], categories=[dict(id=1)], annotations=annotations, info={})
    coco.createIndex()
    results = coco.loadRes([entry(i + 1, box, score=score) for i, (box, score) in enumerate(zip(boxes, scores))])
    evaluation = COCOeval(coco, results, 'bbox')
    evaluation.evaluate()
    evaluation.accumulate()
    expected = evaluation.eval['precision'][:, :, 0, 0, -1].mean()
    objects = Boxes(truth, np.zeros(12, dtype=int))
    detections = found(boxes, np.zeros(len(boxes), dtype=int), scores)
    assert 0.1 < expected < 0.9
    assert average_precision(match(detections, objects, NOTHING)) == pytest.approx(expected, abs=1e-6)
    assert average_precision(match(detections, objects, crowd)) > expected


def test_a_detection_is_right_once_and_only_in_its_class():
    boxes = [TWO.boxes[0], TWO.boxes[0], TWO.boxes[1]]
    matches = match(found(boxes, [0, 0, 0], [0.9, 0.8, 0.7]), TWO, NOTHING)
    assert (matches.right == [True, False, False]).all() and matches.counts.all()


def test_a_false_detection_costs_the_more_the_surer_it_is():
    boxes = [TWO.boxes[0], TWO.boxes[1], [60, 60, 80, 80]]
    aps = []
    for order in ([2, 0, 1], [0, 2, 1], [0, 1, 2]):
        detections = found([boxes[i] for i in order], [[0, 1, 5][i] for i in order], [0.9, 0.8, 0.7])
        aps.append(average_precision(match(detections, TWO, NOTHING)))
    assert aps[0] < aps[1] < aps[2] == 1


def test_images_without_objects_or_detections():
    wrong = found([[0, 0, 9, 9], [30, 30, 50, 50]], [0, 0], [0.8, 0.4])
    assert average_precision(match(NO_DETECTIONS, NO_OBJECTS, NOTHING)) == 1
    assert average_precision(match(wrong, NO_OBJECTS, NOTHING)) == pytest.approx(0.2)
    assert average_precision(match(NO_DETECTIONS, TWO, NOTHING)) == 0
    assert precision_and_recall(match(NO_DETECTIONS, NO_OBJECTS, NOTHING), 0.5) == (1, 1)
    assert precision_and_recall(match(wrong, NO_OBJECTS, NOTHING), 0.5) == (0, 1)
    assert precision_and_recall(match(wrong, NO_OBJECTS, NOTHING), 0.9) == (1, 1)
    assert precision_and_recall(match(NO_DETECTIONS, TWO, NOTHING), 0.5) == (1, 0)


def test_unmatched_detections_inside_a_crowd_do_not_count():
    crowd = np.array([[25.0, 25, 60, 60]])
    detections = found([TWO.boxes[0], [30, 30, 50, 50]], [0, 1], [0.9, 0.8])
    assert precision_and_recall(match(detections, TWO, NOTHING), 0.5) == (0.5, 0.5)
    assert precision_and_recall(match(detections, TWO, crowd), 0.5) == (1, 0.5)
    assert average_precision(match(detections, NO_OBJECTS, crowd)) == pytest.approx(0.1)


def test_boxes_without_area_overlap_nothing():
    point = np.array([[5.0, 5, 5, 5]])
    assert overlaps(point, point).item() == 0 and overlaps(point, TWO.boxes[:1], over_first=True).item() == 0
