"""Parameter groups of the optimizer."""

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.optim import PolyLR, build_optim_wrapper
from torch import nn

from mmacs.quantization import quantize_model, quantizers
from mmacs.utils.errors import MmacsError


@pytest.fixture
def model(tiny_retinanet):
    return quantize_model(MODELS.build(tiny_retinanet), 'w4a4')


def build(model, weight_decay=0.1, optimizer='SGD', kind='OptimWrapper', **paramwise):
    optimizer = dict(type=optimizer, lr=1.0)
    if weight_decay is not None:
        optimizer['weight_decay'] = weight_decay
    constructor = 'mmacs.QuantizationOptimWrapperConstructor'
    return build_optim_wrapper(
        model, dict(type=kind, constructor=constructor, optimizer=optimizer, paramwise_cfg=paramwise)
    )


def groups_by_name(model, wrapper):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group for group in wrapper.optimizer.param_groups for p in group['params']}


def of_quantizers(model):
    return {f'{name}.{own}' for name, quantizer in quantizers(model) for own, _ in quantizer.named_parameters()}


def test_quantizers_have_no_decay_and_a_rate_of_their_own(model):
    groups = groups_by_name(model, build(model, quantizer_lr_mult=0.1))
    own = of_quantizers(model)
    assert own and set(groups) == {name for name, p in model.named_parameters() if p.requires_grad}
    for name, group in groups.items():
        expected = (0.1, 0.0) if name in own else (1.0, 0.1)
        assert (group['lr'], group['weight_decay']) == pytest.approx(expected), name


def test_without_paramwise_cfg_quantizers_still_have_no_decay(model):
    groups = groups_by_name(model, build(model))
    assert {groups[name]['weight_decay'] for name in of_quantizers(model)} == {0.0}
    assert {groups[name]['lr'] for name in groups} == {1.0}


def test_a_zero_gradient_leaves_steps_where_they_are_while_weights_decay(model):
    for _, quantizer in quantizers(model):
        nn.init.constant_(quantizer.step, 0.5)
    wrapper = build(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    wrapper.step()
    own = of_quantizers(model)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] * (1.0 if name in own else 0.9), rtol=1e-6, atol=0)


def test_other_paramwise_keys_hold_for_other_parameters(model):
    groups = groups_by_name(model, build(model, norm_decay_mult=0.0, flat_decay_mult=0.5, bias_lr_mult=2.0))
    assert groups['backbone.bn1.weight']['weight_decay'] == 0.0
    assert groups['bbox_head.retina_cls.bias']['lr'] == 2.0
    assert groups['bbox_head.retina_cls.bias']['weight_decay'] == pytest.approx(0.05)
    # a step is flat too, but first of all a quantizer's
    assert {groups[name]['weight_decay'] for name in of_quantizers(model)} == {0.0}


def test_a_custom_key_wins_in_what_it_says(model):
    keys = {'backbone': dict(lr_mult=0.1), 'neck': dict(decay_mult=0.5), 'bbox_head': dict(lr_mult=3, decay_mult=2)}
    groups = groups_by_name(model, build(model, quantizer_lr_mult=0.2, custom_keys=keys))
    expected = {'backbone': (0.1, 0.0), 'neck': (0.2, 0.05), 'bbox_head': (3.0, 0.2)}
    for name in of_quantizers(model):
        group = groups[name]
        assert (group['lr'], group['weight_decay']) == pytest.approx(expected[name.split('.')[0]]), name


def test_frozen_quantizers_stay_out_and_shared_ones_come_in_once(model):
    model.backbone.layer1.requires_grad_(False)
    head = model.bbox_head
    head.cls_convs[0].conv.input_quantizer = head.reg_convs[0].conv.input_quantizer
    optimized = [p for group in build(model).optimizer.param_groups for p in group['params']]
    trainable = [p for p in model.parameters() if p.requires_grad]  # each once
    assert len(optimized) == len(trainable) and {*map(id, optimized)} == {*map(id, trainable)}


def test_a_distributed_wrapper_and_schedules_keep_the_groups(model):
    wrapped = nn.Module()
    wrapped.module = model
    wrapper = build(wrapped, quantizer_lr_mult=0.1)
    groups = groups_by_name(model, wrapper)
    assert set(groups) == {name for name, p in model.named_parameters() if p.requires_grad}
    schedule = PolyLR(wrapper, power=1.0, end=11)
    for _ in range(3):
        wrapper.step()
        schedule.step()
    own = of_quantizers(model)
    for name, group in groups.items():
        assert group['lr'] == pytest.approx(0.07 if name in own else 0.7)


def test_optimizers_that_decay_by_default_do_not_decay_quantizers(model):
    groups = groups_by_name(model, build(model, weight_decay=None, optimizer='AdamW'))
    assert {groups[name]['weight_decay'] for name in of_quantizers(model)} == {0.0}
    assert groups['backbone.conv1.weight']['weight_decay'] == 0.01


@pytest.mark.parametrize(
    ('paramwise', 'weight_decay', 'message'),
    [
        (dict(quantizer_lr_mult=-1.0), 0.1, 'quantizer_lr_mult must be a number of at least 0, got -1.0'),
        (dict(quantizer_decay_mult='0'), 0.1, "quantizer_decay_mult must be a number of at least 0, got '0'"),
        (dict(quantizer_decay_mult=1.0), None, 'quantizer_decay_mult=1.0 needs optimizer.weight_decay'),
        ({}, '1e-4', "optim_wrapper.optimizer.weight_decay must be a number, got '1e-4'"),
    ],
)
def test_wrong_settings(model, paramwise, weight_decay, message):
    with pytest.raises(MmacsError, match=message):
        build(model, weight_decay=weight_decay, **paramwise)
