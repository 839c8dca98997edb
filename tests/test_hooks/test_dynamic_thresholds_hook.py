"""Thresholds of Dynamic R-CNN that a resumed run goes on with."""

import copy
import json
from types import SimpleNamespace
from unittest.mock import Mock

import mmdet
import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.optim import OptimWrapper
from torch import nn

from mmacs import DynamicThresholdsHook
from mmacs.adapters.dynamic_thresholds import dynamic_thresholds
from mmacs.hooks.dynamic_thresholds_hook import keep_dynamic_thresholds
from mmacs.teacher.side_effects import without_side_effects
from mmacs.utils.errors import MmacsError
from tests.test_quantization.test_architectures import FEW_PROPOSALS, NARROW_HEAD, shipped_model

DYNAMIC = 'train_cfg.rcnn.dynamic_rcnn'
CHANGES = {
    **FEW_PROPOSALS,
    **NARROW_HEAD,
    'backbone.depth': 18,
    'backbone.base_channels': 8,
    'neck.in_channels': [8, 16, 32, 64],
    'neck.out_channels': 16,
    'rpn_head.in_channels': 16,
    'rpn_head.feat_channels': 16,
    'roi_head.bbox_roi_extractor.out_channels': 16,
    'roi_head.bbox_head.in_channels': 16,
    'backbone.norm_eval': True,
    f'{DYNAMIC}.update_iter_interval': 2,
    f'{DYNAMIC}.iou_topk': 12,
    f'{DYNAMIC}.initial_iou': 0.0,
    f'{DYNAMIC}.initial_beta': 100.0,  # offsets of random proposals are large
}
BATCH = demo_mm_inputs(2, [(3, 64, 64)] * 2, num_items=[3, 2], num_classes=80)


@pytest.fixture(scope='module')
def start():
    """A narrow Dynamic R-CNN, of which losses were measured."""
    torch.manual_seed(0)
    model = shipped_model(mmdet, 'dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco.py', **CHANGES)
    with without_side_effects(model):  # as calibration may
        model(**model.data_preprocessor(copy.deepcopy(BATCH), False), mode='loss')
    return model


def train(model, steps, first=0):
    """Train with the random state of each step."""
    wrapper = OptimWrapper(optimizer=torch.optim.SGD(model.parameters(), 0.01))
    model.train()
    for step in range(first, first + steps):
        torch.manual_seed(step)
        model.train_step(copy.deepcopy(BATCH), wrapper)


def runner_of(model, **changes):
    return SimpleNamespace(**{'model': model, 'iter': 0, 'hooks': [], 'logger': Mock(), **changes})


def resumed(model, weights, checkpoint):
    """The same model in another process, which goes on from a checkpoint."""
    model.load_state_dict(weights)
    hook = DynamicThresholdsHook()
    hook.after_load_checkpoint(None, checkpoint)
    hook.before_train(runner_of(model, iter=6))
    return model


def test_a_run_that_is_killed_within_an_interval_goes_on_with_its_thresholds(start):
    whole, fresh = copy.deepcopy(start), copy.deepcopy(start)
    assert dynamic_thresholds(start)['roi_head']['iou_history'] == []  # a measured loss is no iteration
    train(whole, 3)  # thresholds changed after the second, and one iteration has been seen since
    checkpoint, weights = {}, copy.deepcopy(whole.state_dict())
    DynamicThresholdsHook().before_save_checkpoint(runner_of(whole), checkpoint)
    (values,) = checkpoint['mmacs_dynamic_thresholds']['processes']
    before, now = dynamic_thresholds(start)['roi_head'], values['roi_head']
    assert len(now['iou_history']) == len(now['beta_history']) == 1
    assert now['beta'] != before['beta'] and now['pos_iou_thr'] == now['neg_iou_thr'] != before['pos_iou_thr']
    train(whole, 2, first=3)

    without = resumed(copy.deepcopy(start), weights, {})  # of a checkpoint of before: with a warning
    assert dynamic_thresholds(without)['roi_head'] == before
    train(resumed(fresh, weights, json.loads(json.dumps(checkpoint))), 2, first=3)  # plain values
    assert dynamic_thresholds(fresh) == dynamic_thresholds(whole)
    ours, theirs = fresh.state_dict(), whole.state_dict()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_each_process_gets_its_own_back(start, monkeypatch):
    models = [copy.deepcopy(start) for _ in range(2)]
    for beta, model in enumerate(models, start=1):
        model.roi_head.bbox_head.loss_bbox.beta = beta / 4
    place = 'mmacs.hooks.dynamic_thresholds_hook'
    monkeypatch.setattr(f'{place}.get_world_size', lambda: 2)
    monkeypatch.setattr(f'{place}.all_gather_object', lambda own: [dynamic_thresholds(model) for model in models])
    hook, checkpoint = DynamicThresholdsHook(), {}
    hook.after_train_epoch(runner_of(models[0]))
    hook.before_save_checkpoint(None, checkpoint)
    for rank, beta in ((0, 0.25), (1, 0.5), (2, 0.25)):
        monkeypatch.setattr(f'{place}.get_rank', lambda rank=rank: rank)
        model = resumed(copy.deepcopy(start), start.state_dict(), checkpoint)
        assert model.roi_head.bbox_head.loss_bbox.beta == beta


def test_runs_of_such_a_model_get_the_hook_once_and_others_none(start):
    for model, hooks, count in ((start, [], 1), (start, [DynamicThresholdsHook()], 0), (nn.ReLU(), [], 0)):
        runner = runner_of(model, hooks=hooks, register_hook=Mock())
        keep_dynamic_thresholds(runner)
        assert runner.register_hook.call_count == count
    with pytest.raises(MmacsError, match='found no DynamicRoIHead in ReLU: leave it out'):
        DynamicThresholdsHook().before_train(runner_of(nn.ReLU()))


@pytest.mark.parametrize(
    'change',
    [dict(beta=0), dict(beta=float('nan')), dict(iou_history='x'), dict(iou_history=['x']), dict(pos_iou_thr=None)],
)
def test_thresholds_that_are_none(start, change):
    sound = dynamic_thresholds(start)['roi_head']
    for state in (
        {'processes': [{'roi_head': {**sound, **change}}]},
        {'processes': [{'roi_head': {}}]},
        {'processes': []},
        {'processes': [5]},
        [5],
    ):
        with pytest.raises(MmacsError, match='thresholds of Dynamic R-CNN in the checkpoint are damaged'):
            resumed(start, start.state_dict(), {'mmacs_dynamic_thresholds': state})
