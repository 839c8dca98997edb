"""What the adapters say of MMDetection's detectors, beside what the detectors themselves predict."""

import copy

import mmdet
import pytest
import torch
from mmdet.models.dense_heads import atss_head
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.structures import InstanceData

from mmacs.adapters.base import adapter_of
from mmacs.adapters.kinds import at_anchors
from mmacs.adapters.mmdet import head_loss
from mmacs.coreset.scoring.scorers import DenseDetectionScorer
from mmacs.coreset.scoring.scorers.dense_detection import predictions_at
from mmacs.distillation.capture import Recorder
from tests.test_coreset.test_scoring.test_detection_scorers import MODELS_OF_EACH_KIND
from tests.test_deploy.detectors import detector, samples
from tests.test_quantization.test_architectures import seem_trained, shipped_model


def built(name, tiny_retinanet):
    """A narrow detector that is not all noise, and two preprocessed images."""
    _, path, changes = MODELS_OF_EACH_KIND[name]
    changes = {**changes, **({'backbone.style': 'pytorch'} if changes.get('backbone.depth') == 18 else {})}
    model = shipped_model(mmdet, path, **changes) if path else MODELS.build(tiny_retinanet)
    data = demo_mm_inputs(2, [(3, 64, 64)] * 2, num_items=[3, 2], num_classes=80 if path else 3)
    data = model.data_preprocessor(data, False)
    seem_trained(model.eval(), data)
    return model, data


@pytest.mark.parametrize('name', ['RetinaNet', 'GFL', 'FasterRCNN', 'CascadeRCNN', 'DETR', 'DeformableDETR'])
@torch.no_grad()
def test_detections_are_the_detectors_own(name, tiny_retinanet):
    model, data = built(name, tiny_retinanet)
    (model.roi_head if name.endswith('RCNN') else model).test_cfg.score_thr = 0.0
    inputs, samples = data.values()
    adapter = adapter_of(model)
    outputs = adapter.outputs(inputs, samples)
    found = adapter.detections(outputs) if name.endswith('RCNN') else adapter.detections(outputs, samples)
    expected = [sample.pred_instances for sample in model.predict(inputs, copy.deepcopy(samples), rescale=False)]
    for ours, theirs in zip(found, expected):
        assert len(ours) == len(theirs) > 0 and torch.equal(ours.labels, theirs.labels)
        torch.testing.assert_close(ours.scores, theirs.scores)
        torch.testing.assert_close(ours.bboxes, theirs.bboxes)


@pytest.mark.parametrize('name', ['RetinaNet', 'ATSS', 'YOLOX'])
@torch.no_grad()
def test_recorded_predictions_are_those_of_the_levels_anchor_by_anchor(name, tiny_retinanet):
    model, data = built(name, tiny_retinanet)
    adapter = adapter_of(model)
    assert adapter.comparable
    recorder = Recorder(model, adapter.heads)
    recorder.start()
    levels = adapter.levels(adapter.outputs(*data.values()))
    recorded = adapter.predictions(recorder.stop())
    assert len(recorded) == len(levels)
    for level, found in zip(levels, recorded):
        every = torch.arange(level.num_places * level.num_priors).expand(2, -1)
        assert torch.equal(found.logits, at_anchors(level.logits, every).flatten(0, 1))
        assert torch.equal(found.codes, at_anchors(level.codes, every).flatten(0, 1))
        assert (found.quality is None) == (level.quality is None) == (name == 'RetinaNet')
        if found.quality is not None:
            assert torch.equal(found.quality, at_anchors(level.quality[:, :, None], every).flatten())


@torch.no_grad()
def test_distributions_over_distances_are_recorded_as_their_expectations(tiny_retinanet):
    model, data = built('GFL', tiny_retinanet)
    adapter = adapter_of(model)
    recorder = Recorder(model, adapter.heads)
    recorder.start()
    level = adapter.levels(adapter.outputs(*data.values()))[0]
    recorded = adapter.predictions(recorder.stop())[0]
    places = torch.arange(level.num_places).expand(2, -1)
    bins = at_anchors(level.codes, places).flatten(0, 1).unflatten(1, (4, -1)).softmax(-1)
    torch.testing.assert_close(recorded.codes, bins @ torch.arange(bins.shape[-1], dtype=torch.float32))


@pytest.mark.parametrize('name', ['FasterRCNN', 'CascadeRCNN'])
@torch.no_grad()
def test_a_two_stage_detector_looks_where_another_did(name, tiny_retinanet):
    model, data = built(name, tiny_retinanet)
    adapter, other = adapter_of(model), adapter_of(copy.deepcopy(model))
    for parameter in other.model.roi_head.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    recorders = [Recorder(one.model, one.heads) for one in (adapter, other)]
    for recorder in recorders:
        recorder.start()
    adapter.outputs(*data.values())
    calls = recorders[0].stop()
    other.run_like(*data.values(), calls)
    theirs = recorders[1].stop()
    extractors = [head for head in adapter.heads if 'extractor' in head]
    assert len(extractors) == (3 if name == 'CascadeRCNN' else 1)
    for extractor in extractors:
        assert torch.equal(theirs[extractor][0].args[1], calls[extractor][0].args[1])
    ours, theirs = adapter.predictions(calls), other.predictions(theirs)
    assert [own.logits.shape for own in ours] == [one.logits.shape for one in theirs]
    assert all(torch.equal(own.logits, one.logits) for own, one in zip(ours[:5], theirs))  # of the RPN
    assert not any(torch.equal(own.logits, one.logits) for own, one in zip(ours[5:], theirs[5:]))


@pytest.mark.parametrize(
    'name',
    [
        'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
        'fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py',
        'atss/atss_r50_fpn_1x_coco.py',
        'gfl/gfl_r50_fpn_1x_coco.py',
        'vfnet/vfnet_r50_fpn_1x_coco.py',
        'yolox/yolox_tiny_8xb8-300e_coco.py',
        'rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
        'tood/tood_r50_fpn_1x_coco.py',
        'foveabox/fovea_r50_fpn_4xb4-1x_coco.py',
        'reppoints/reppoints-moment_r50_fpn_1x_coco.py',
        'ssd/ssd300_coco.py',
    ],
)
def test_boxes_and_scores_are_those_that_the_head_predicts(name, monkeypatch):
    from mmdet.models import SSDHead

    monkeypatch.setattr(SSDHead, 'loss_cls', None, raising=False)  # MMDetection's code for predicting asks for it
    model = shipped_model(mmdet, name).eval()
    size = 300 if name.startswith('ssd') else 64
    data = model.data_preprocessor(demo_mm_inputs(1, [(3, size, size)], num_items=[2]), False)
    data['inputs'] = torch.randn(1, 3, size, size)  # not to overflow YOLOX, which takes pixels as they are
    scorer = DenseDetectionScorer()
    scorer.check(model, ['evs'])
    with torch.no_grad():
        outputs = scorer.outputs(model, **data)
        maps = getattr(outputs, 'outputs', outputs)
        metas = [dict(data['data_samples'][0].metainfo, img_shape=(10**6, 10**6))]
        test_cfg = copy.deepcopy(model.test_cfg)
        test_cfg.update(score_thr=-1, nms_pre=10**6, max_per_img=10**6)
        predicted = model.bbox_head.predict_by_feat(
            *maps, batch_img_metas=metas, cfg=test_cfg, rescale=False, with_nms=False
        )[0]
        levels = adapter_of(model).levels(outputs)
        every = [torch.arange(level.num_places * level.num_priors)[None] for level in levels]
        probs, boxes = (part[0] for part in predictions_at(adapter_of(model), levels, every))
    assert isinstance(predicted, InstanceData)
    scores = predicted.scores * predicted.get('score_factors', 1)
    # each prediction is among ours (one row per class there), but for coordinates that the head clips to the image
    for i in range(0, len(predicted), len(predicted) // 40):
        apart = torch.minimum((boxes - predicted.bboxes[i]).abs(), (boxes.clamp(min=0) - predicted.bboxes[i]).abs())
        row = apart.amax(1) + (probs[:, predicted.labels[i]] - scores[i]).abs()
        assert row.min() < 1e-2


@pytest.mark.parametrize('name', ['DETR', 'DABDETR'])
def test_heads_of_queries_see_the_last_decoder_layer_alone(name):
    model, images, seen = detector(name), torch.randn(2, 3, 64, 96), []
    adapter = adapter_of(model)
    model.bbox_head.register_forward_hook(lambda head, args, output: seen.append(output))
    with torch.no_grad():
        logits, boxes = adapter.outputs(images, samples(2, 64, 96))
        every = model(images, samples(2, 64, 96), mode='tensor')
    assert len(seen[0][0]) == 1 < len(every[0])
    torch.testing.assert_close((logits, boxes), (every[0][-1], every[1][-1]))


def test_normalisers_of_the_loss_are_not_averaged_over_processes(monkeypatch):
    asked = []
    monkeypatch.setattr(atss_head, 'reduce_mean', lambda tensor: asked.append(tensor) or tensor)
    theirs = atss_head.reduce_mean
    monkeypatch.setattr(head_loss, 'get_world_size', lambda: 2)
    model = shipped_model(mmdet, 'atss/atss_r50_fpn_1x_coco.py').eval()
    data = model.data_preprocessor(demo_mm_inputs(1, [(3, 64, 64)], num_items=[2], num_classes=80), False)
    scorer, samples = DenseDetectionScorer(), data['data_samples']
    with torch.no_grad():
        outputs = scorer.outputs(model, **data)
        assert scorer.score(model, outputs, samples, {}, ['loss'])['loss'].isfinite().all()
        assert not asked and atss_head.reduce_mean is theirs
        monkeypatch.setattr(model.bbox_head, 'loss_by_feat', None)
        with pytest.raises(TypeError):
            scorer.score(model, outputs, samples, {}, ['loss'])
    assert atss_head.reduce_mean is theirs
