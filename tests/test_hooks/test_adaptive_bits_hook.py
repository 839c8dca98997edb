"""Bit-widths that move while the narrow RetinaNet trains on a dozen images."""

import copy
import random
from contextlib import nullcontext
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmengine.runner.priority import get_priority

from mmacs.hooks import DistillationHook, QuantizationHook
from mmacs.hooks.adaptive_bits_hook import STATE_KEY, AdaptiveBitsHook
from mmacs.models.quantized_model import full_precision_config
from mmacs.quantization import quantize_model
from mmacs.quantization.learned_bits import LearnedBits
from mmacs.quantization.participants import participants
from mmacs.utils.errors import MmacsError
from tests.conftest import run_config

from .test_run import load_checkpoint

CONFIG = 'retinanet_r18_w4a4_acs.py'


@pytest.fixture
def config(tiny_retinanet, tiny_coco, tmp_path):
    """Makes configs of W8A8 runs with the hook, three iterations per epoch, from a full-precision checkpoint."""
    start = tmp_path / 'fp.pth'
    torch.save(dict(state_dict=MODELS.build(tiny_retinanet).state_dict()), start)

    def make(name, hook=(), **changes):
        changes = {
            'load_from': str(start),
            'model.recipe.preset': 'w8a8',
            'train_cfg.max_epochs': 1,
            'train_cfg.val_begin': 9,
            **changes,
        }
        cfg = run_config(CONFIG, tiny_coco, tmp_path / name, **changes)
        cfg.default_hooks.pop('coreset')
        cfg.default_hooks.adaptive_bits = dict(type='mmacs.AdaptiveBitsHook', interval=1, **dict(hook))
        return cfg

    return make


FALLING = dict(cost_weight=1000.0, lr=0.008)  # 1 bit per step at 8 bits, whatever the loss says


def train(cfg):
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def hook_of(runner):
    return next(hook for hook in runner.hooks if isinstance(hook, AdaptiveBitsHook))


def bits_of(runner):
    model = runner.model
    return {kind: {model.get_submodule(n).bits for n in names} for kind, names in participants(model).items()}


class Watch:
    """Compares everything that a run consists of before and after a hook, and records the losses that it measured."""

    def __init__(self, watched):
        self.measured = []
        self.watched = watched
        self.step, watched.after_train_iter = watched.after_train_iter, self.compare
        self.loss, watched._loss = watched._loss, self.record

    def record(self, runner, data_batch, bits):
        self.measured.append((dict(bits), self.loss(runner, data_batch, bits)))
        return self.measured[-1][1]

    def state(self, runner):
        tensors = {**runner.model.state_dict(), 'rng': torch.get_rng_state()}
        plain = (random.getstate(), np.random.get_state()[1].tolist(), [m.training for m in runner.model.modules()])
        return copy.deepcopy(tensors), copy.deepcopy(runner.optim_wrapper.state_dict()['state']), plain

    def compare(self, runner, **kwargs):
        before = self.state(runner)
        self.step(runner, **kwargs)
        after = self.state(runner)
        assert all(torch.equal(before[0][key], after[0][key]) for key in before[0])
        assert str(before[1:]) == str(after[1:])


def test_measuring_leaves_no_trace(config):
    # every range follows the data, BatchNorm trains, and N starts between two integers and stays there
    cfg = config('run', dict(lr=1e-6), **{'model.recipe.activation': dict(type='EMAMinMax')})
    full_precision_config(cfg.model)['backbone'].norm_eval = False
    runner = Runner.from_cfg(cfg)
    hook = hook_of(runner)
    watch = Watch(hook)
    hook.before_run(runner)
    hook.learned = {kind: LearnedBits(7.5) for kind in hook.learned}
    runner.train()
    assert [bits for bits, _ in watch.measured[:3]] == [
        {'weight': 8, 'activation': 8},
        {'weight': 7, 'activation': 8},
        {'weight': 8, 'activation': 7},
    ]
    losses = torch.stack([loss for _, loss in watch.measured])
    assert losses.isfinite().all() and not losses.requires_grad
    assert len(losses[:3].unique()) == 3


def test_the_measured_loss_is_that_of_training(config):
    runner = Runner.from_cfg(config('run', **{'optim_wrapper.optimizer.lr': 0.0}))
    seen = []

    class Compare(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            hook = hook_of(runner)
            seen.append((hook._loss(runner, data_batch, hook.bits).item(), outputs['loss'].item()))

    runner.register_hook(Compare())
    runner.train()
    assert len(seen) == 3
    for measured, trained in seen:
        assert measured == pytest.approx(trained, rel=1e-6)


def test_bits_fall_under_a_large_cost_resume_bit_equal_and_are_evaluated(config, tmp_path):
    whole = train(config('whole', FALLING, **{'train_cfg.max_epochs': 2}))
    assert hook_of(whole).bits['weight'] < 6 and hook_of(whole).bits['activation'] < 6
    assert bits_of(whole) == {kind: {bits} for kind, bits in hook_of(whole).bits.items()}
    assert whole.model.backbone.conv1.weight_quantizer.bits == 8
    assert whole.model.bbox_head.retina_cls.input_quantizer.bits == 8

    train(config('part', FALLING))
    resumed = train(config('part', FALLING, **{'train_cfg.max_epochs': 2, 'resume': True, 'load_from': None}))
    assert hook_of(resumed).learned == hook_of(whole).learned
    one, other = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)

    file = str(tmp_path / 'whole' / 'epoch_2.pth')
    assert LearnedBits(**load_checkpoint(file)[STATE_KEY]['weight']) == hook_of(whole).learned['weight']
    tested = Runner.from_cfg(config('test', FALLING, load_from=file))
    metrics = tested.test()
    assert bits_of(tested) == bits_of(whole)
    assert metrics == whole.test()  # also of a runner that has trained
    without = config('without', load_from=file, **{'model.recipe.weight.bits': hook_of(whole).bits['weight']})
    without.model.recipe.activation = dict(bits=hook_of(whole).bits['activation'])
    without.default_hooks.pop('adaptive_bits')
    assert Runner.from_cfg(without).test() == metrics


def fake_run(model, hook, weight_loss=0.0, iterations=0, **changes):
    """Bits after each iteration of a run that only counts, three to an epoch; ``weight_loss`` is the loss per bit."""
    runner = SimpleNamespace(model=model, hooks=[hook], logger=Mock(), visualizer=Mock(), iter=0, epoch=0)
    runner.train_loop, runner.max_epochs = Mock(spec=EpochBasedTrainLoop), 40
    vars(runner).update(changes)
    hook._loss = lambda runner, data_batch, bits: torch.tensor(weight_loss * bits['weight'])
    hook.before_run(runner)
    hook.before_train(runner)
    for runner.iter in range(iterations):
        runner.epoch = runner.iter // 3
        hook.after_train_iter(runner, batch_idx=runner.iter, data_batch={})
        yield hook.bits


@pytest.fixture
def model(tiny_retinanet):
    return quantize_model(MODELS.build(tiny_retinanet), 'w8a8')


def test_bits_that_the_loss_misses_come_back(model):
    hook = AdaptiveBitsHook(interval=2, cost_weight=0.0, lr=0.75)
    run = fake_run(model, hook, weight_loss=-1.0, iterations=7)
    next(run)
    hook.learned = {kind: LearnedBits(6.5) for kind in hook.learned}
    list(run)
    assert hook.learned['weight'].value == 8.0  # three steps of 0.75, then the limit
    assert hook.learned['activation'].value == 6.5
    names = participants(model)['activation']
    assert {model.get_submodule(name).bits for name in names} == {7}


def test_at_an_integer_the_loss_is_not_asked(model):
    hook = AdaptiveBitsHook(interval=1, cost_weight=0.0)
    assert list(fake_run(model, hook, weight_loss=float('nan'), iterations=2))[-1] == {'weight': 8, 'activation': 8}


def test_bits_are_fixed_from_the_freezing_epoch_on(model):
    hook = AdaptiveBitsHook(interval=1, freeze_epoch=2, **FALLING)
    bits = list(fake_run(model, hook, iterations=9))
    assert bits[5]['weight'] < 8
    assert bits[5] == bits[6] == bits[8]
    assert all(learned.frozen for learned in hook.learned.values())


def test_the_target_ends_the_descent(model):
    *_, before, bits = fake_run(model, AdaptiveBitsHook(interval=1, target=0.5, **FALLING), iterations=4)
    assert before['weight'] * before['activation'] > 32 >= bits['weight'] * bits['activation']
    *_, later = fake_run(model, AdaptiveBitsHook(interval=1, target=0.5, **FALLING), iterations=9)
    assert later == bits


@pytest.mark.parametrize('fixed_by', [dict(max_crossings=4), dict(max_crossings=1000, freeze_epoch=30)])
def test_bits_that_the_loss_draws_above_the_target_do_not_end_there(model, fixed_by):
    hook = AdaptiveBitsHook(interval=1, target=0.5, cost_weight=2.0, lr=0.9, min_bits=5, **fixed_by)
    costs = [
        bits['weight'] * bits['activation'] / 64 for bits in fake_run(model, hook, weight_loss=-0.1, iterations=120)
    ]
    met = next(index for index, cost in enumerate(costs) if cost <= 0.5)
    assert max(costs[met:]) > 0.5  # it went back up
    assert costs[-1] <= 0.5
    assert hook.learned['weight'].frozen


def test_a_loss_that_is_not_finite_is_named(model):
    with pytest.raises(MmacsError, match='is not finite: lower the learning rate'):
        list(fake_run(model, AdaptiveBitsHook(interval=1, cost_weight=2.0), float('nan'), iterations=5))


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(cost_weight=-1), 'cost_weight must be a number, at least 0, got -1'),
        (dict(target=1.5), 'target must be a number, at least 0 and at most 1, got 1.5'),
        (dict(lr=float('nan')), 'lr must be a number, at least 0, got nan'),
        (dict(interval=0), 'interval must be a whole number, at least 1, got 0'),
        (dict(max_crossings=2.5), 'max_crossings must be a whole number'),
        (dict(min_bits=4, max_bits=4), 'min_bits and max_bits must be integers'),
        (dict(max_bits=9), 'min_bits < max_bits <= 8, got 2 and 9'),
        (dict(freeze_epoch=0), 'freeze_epoch must be a whole number, at least 1, got 0'),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(MmacsError, match=message):
        AdaptiveBitsHook(**settings)


@pytest.mark.parametrize(
    ('recipe', 'hooks', 'message'),
    [
        ('w4a4', [], 'the weight starts at 4 bits, outside of min_bits=5 to max_bits=8'),
        # the layers with a role would have 10 bits too, and 8 in a recipe with the bits that are learned
        (
            dict(preset='w8a8', activation=dict(bits=10)),
            [],
            'the activation starts at 10 bits, outside of min_bits=5 to max_bits=8',
        ),
        (dict(preset='w8a8', weight=dict(type='DQWeight')), [], 'is a DQWeight of 8 bits, each of them trained'),
        ('w8a8', [EMAHook()], 'AdaptiveBitsHook does not go with EMAHook'),
        (
            dict(preset='w8a8', rules=[dict(name='*', weight=dict(bits=8), activation=dict(bits=8))]),
            [],
            'found no bit-width to learn',
        ),
        (None, [], 'found nothing quantized'),
    ],
)
def test_runs_that_cannot_work_are_refused_before_they_train(tiny_retinanet, recipe, hooks, message):
    model = MODELS.build(tiny_retinanet)
    if recipe is not None:
        quantize_model(model, recipe)
    with pytest.raises(MmacsError, match=message):
        list(fake_run(model, AdaptiveBitsHook(min_bits=5), hooks=hooks))


@pytest.mark.parametrize(
    ('loop', 'freeze_epoch', 'works'),
    [(EpochBasedTrainLoop, 39, True), (EpochBasedTrainLoop, 40, False), (IterBasedTrainLoop, 1, False)],
)
def test_a_freezing_epoch_that_never_comes_is_refused(model, loop, freeze_epoch, works):
    run = fake_run(model, AdaptiveBitsHook(freeze_epoch=freeze_epoch), train_loop=Mock(spec=loop))
    refused = pytest.raises(MmacsError, match='freeze_epoch must be below max_epochs of an epoch-based run')
    with nullcontext() if works else refused:
        list(run)


def test_bits_move_after_distillation_has_detached_and_before_checkpoints_are_compared():
    hooks = (DistillationHook, AdaptiveBitsHook, QuantizationHook)
    first, second, third = (get_priority(hook.priority) for hook in hooks)
    assert first < second < third


def test_checkpoints_that_do_not_fit_are_refused(tiny_retinanet, model):
    with pytest.raises(MmacsError, match='written by a run without AdaptiveBitsHook'):
        list(fake_run(model, AdaptiveBitsHook(), iter=3))
    hook, checkpoint = AdaptiveBitsHook(), {}
    list(fake_run(model, hook))
    hook.before_save_checkpoint(None, checkpoint)
    w4a32 = SimpleNamespace(model=quantize_model(MODELS.build(tiny_retinanet), 'w4a32'))
    with pytest.raises(MmacsError, match='has learned bits for weight and activation, but the recipe leaves weight'):
        AdaptiveBitsHook().after_load_checkpoint(w4a32, checkpoint)
