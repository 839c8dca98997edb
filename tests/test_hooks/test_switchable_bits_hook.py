"""Training at several bit-widths: sums of losses and gradients, the widest as teacher, resumed runs, refusals."""

import copy
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import nn
from torch.testing import assert_close

from mmacs import (
    ActivationDensityHook,
    CoresetHook,
    DistillationHook,
    QuantizationHook,
    SwitchableBitsHook,
    WeightUpdateSkippingHook,
)
from mmacs.distillation.losses import soft_cross_entropy
from mmacs.hooks.optim_constructor import QuantizationOptimWrapperConstructor
from mmacs.quantization import calibrate, quantize_model, set_bits
from mmacs.quantization.switchable import bits_set
from mmacs.utils.errors import MmacsError

from .toy import Toy, assert_same_end, build, images, run

RECIPE = dict(preset='w8a8', bit_widths=[8, 4, 2])
BATCH = {name: torch.stack([image[name] for image in images()]) for name in ('inputs', 'labels')}


def started(model, **settings):
    """A hook in an iteration of a run of a model that is said to train."""
    hook = SwitchableBitsHook(**settings)
    runner = SimpleNamespace(model=model, hooks=[hook], cfg={}, logger=Mock(), iter=0)
    hook.before_run(runner)
    hook.before_train(runner)
    hook.before_train_iter(runner)
    return hook, runner


@pytest.mark.parametrize(
    'settings',
    [
        {},
        dict(weight=dict(type='OCTAV'), activation=dict(type='DAQ')),  # what backward computes again depends on bits
        dict(weight=dict(type='SDQ', logarithmic=True)),
        dict(weight=dict(type='CoarseFine'), activation=dict(type='PACT')),
    ],
)
def test_gradients_are_the_sums_of_those_of_each_width(settings):
    model = Toy({**RECIPE, **settings})
    hook, runner = started(model, weight=0, bits=4)
    losses = model(**BATCH, mode='loss')
    assert list(losses) == ['loss_8bit', 'loss_4bit', 'loss_2bit'] and bits_set(model) == 4
    sum(losses.values()).backward()
    hook.after_train_iter(runner)
    assert 'forward' not in vars(model)
    set_bits(model, 8)
    of_weights = []
    for bits in (8, 4, 2):
        alone = Toy(dict(preset=f'w{bits}a{bits}', **settings))
        loss = alone(**BATCH, mode='loss')['loss']
        loss.backward()
        assert torch.equal(loss, losses[f'loss_{bits}bit'])
        of_weights.append(alone.second.weight.grad)
        place = '' if bits == 8 else f'at_{bits}.'
        for owner in ('second.weight_quantizer', 'third.input_quantizer'):
            for name, parameter in alone.get_submodule(owner).named_parameters():
                assert_close(model.get_parameter(f'{owner}.{place}{name}').grad, parameter.grad)
        assert torch.equal(model.get_buffer(f'norm.{place}running_mean'), alone.norm.running_mean)
    assert_close(model.second.weight.grad, sum(of_weights))
    assert all(parameter.grad is not None for parameter in model.parameters())  # none that processes would wait for


def test_other_modes_see_one_width():
    model = Toy(RECIPE)
    started(model, weight=0, bits=2)
    model.eval()
    assert torch.equal(model(BATCH['inputs']), Toy('w2a2').eval()(BATCH['inputs']))


def test_the_widest_teaches_the_others():
    torch.manual_seed(0)
    head = dict(type='LinearClsHead', num_classes=5, in_channels=64, loss=dict(type='CrossEntropyLoss'))
    backbone = dict(type='mmacs.CIFARResNet', depth=20)
    neck = dict(type='GlobalAveragePooling')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(type='ImageClassifier', backbone=backbone, neck=neck, head=head))
    quantize_model(model, dict(preset='w4a4', bit_widths=[4, 2]))
    inputs, samples = torch.randn(4, 3, 16, 16), [DataSample().set_gt_label(number) for number in range(4)]
    calibrate(model, [inputs])
    model.eval()  # so that one forward is like the other
    started(model, weight=0.75, temperature=2.0)
    losses = model(inputs=inputs, data_samples=samples, mode='loss')
    assert list(losses) == ['loss_4bit', 'loss_cls_2bit', 'loss_distill_cls_2bit']
    logits = {bits: set_bits(model, bits)(inputs) for bits in (4, 2)}
    hard = {bits: nn.functional.cross_entropy(each, torch.arange(4)) for bits, each in logits.items()}
    assert_close(losses['loss_4bit'], hard[4])
    assert_close(losses['loss_cls_2bit'], 0.25 * hard[2])
    assert_close(losses['loss_distill_cls_2bit'], 0.75 * soft_cross_entropy(logits[2], logits[4], 2.0).mean())


def test_a_killed_run_goes_on_alike(tmp_path):
    def switch():
        return SwitchableBitsHook(weight=0, bits=2)

    twice = dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9), accumulative_counts=2))
    whole = run(tmp_path / 'whole', [switch()], RECIPE, epochs=2, told=(0.5, 0.5), **twice)
    assert bits_set(whole.model) == 2
    start = Toy(RECIPE).state_dict()
    moved = [name for name, value in whole.model.state_dict().items() if not torch.equal(value, start[name])]
    for place in ('', 'at_4.', 'at_2.'):
        assert f'second.weight_quantizer.{place}step' in moved and f'norm.{place}running_var' in moved
    file = str(tmp_path / 'whole' / 'epoch_1.pth')
    resumed = run(tmp_path / 'more', [switch()], RECIPE, epochs=2, told=(0.5,), resume=True, load_from=file, **twice)
    assert_same_end(resumed, whole)
    # the same checkpoint, to be evaluated at another width
    tested = build(tmp_path / 'tested', [], RECIPE, load_from=str(tmp_path / 'whole' / 'epoch_2.pth'))
    SwitchableBitsHook(bits=4).before_run(tested)
    tested.load_or_resume()
    assert_same_end(tested, whole)
    tested.model.eval(), whole.model.eval()
    assert torch.equal(tested.model(BATCH['inputs']), set_bits(whole.model, 4)(BATCH['inputs']))


def test_steps_of_all_widths_have_the_settings_of_steps():
    settings = dict(optimizer=dict(type='SGD', lr=1.0, weight_decay=0.1))
    build_wrapper = QuantizationOptimWrapperConstructor(settings, dict(quantizer_lr_mult=0.5))
    model = Toy(RECIPE)
    groups = {id(group['params'][0]): group for group in build_wrapper(model).optimizer.param_groups}
    for name, parameter in model.named_parameters():
        group = groups[id(parameter)]
        assert (group['lr'], group['weight_decay']) == ((0.5, 0.0) if name.endswith('step') else (1.0, 0.1))


@pytest.mark.parametrize(
    ('other', 'message'),
    [
        (EMAHook(), 'EMAHook, whose averages know one width alone'),
        (DistillationHook(), 'DistillationHook, since the widest width is the teacher'),
        (WeightUpdateSkippingHook(), 'WeightUpdateSkippingHook, which lets the steps of one width rest'),
        (
            CoresetHook(dict(type='mmacs.ClassificationScorer'), unbiased=True),
            'CoresetHook, whose harvest and unbiased look into training forwards',
        ),
    ],
)
def test_hooks_that_it_does_not_go_with(other, message):
    hook = SwitchableBitsHook(weight=0)
    runner = SimpleNamespace(model=Toy(RECIPE), hooks=[other, hook], cfg={}, logger=Mock())
    with pytest.raises(MmacsError, match=f'SwitchableBitsHook does not go with {message}'):
        hook.before_train(runner)


def test_widths_that_nothing_trains(monkeypatch):
    for name in ('take_work_dir', 'require_batches', 'coreset_sampler'):
        monkeypatch.setattr(f'mmacs.hooks.quantization_hook.{name}', lambda runner: None)
    runner = SimpleNamespace(model=Toy(RECIPE), hooks=[QuantizationHook()])
    with pytest.raises(MmacsError, match=r'bit_widths=\[8, 4, 2\], which nothing trains: add .*SwitchableBitsHook'):
        runner.hooks[0].before_train(runner)


def test_what_it_cannot_train():
    model = Toy(RECIPE)
    with pytest.raises(MmacsError, match='cannot distil this model: .* not Toy; weight=0 of Switch'):
        started(model)
    with pytest.raises(MmacsError, match='the bit-widths of the model, 8, 4, 2, got 3'):
        started(model, bits=3)
    with pytest.raises(MmacsError, match='this one has none: give the model recipe='):
        started(Toy('w8a8'))
    with pytest.raises(MmacsError, match='ActivationDensityHook changes bits, and bit_widths of the recipe trains'):
        ActivationDensityHook().before_run(SimpleNamespace(model=model))
    recomputing = copy.deepcopy(model)
    recomputing.second.with_cp = True
    with pytest.raises(MmacsError, match=r'with with_cp=True \(second\)'):
        started(recomputing, weight=0)
    runner = SimpleNamespace(model=model, hooks=[], cfg=dict(compile=True))
    with pytest.raises(MmacsError, match='leave out compile'):
        SwitchableBitsHook().before_train(runner)
    for settings in (dict(weight=-1), dict(weight='much'), dict(temperature=0)):
        with pytest.raises(MmacsError, match='of SwitchableBitsHook must be a number'):
            SwitchableBitsHook(**settings)
