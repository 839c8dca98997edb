"""One model at several bit-widths: what is of each width, the switch, checkpoints."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import mmacs
from mmacs.quantization import (
    Specification,
    calibrate,
    freeze,
    quantize_model,
    quantizers,
    reestimate_batch_norm,
    set_bits,
)
from mmacs.quantization.convert import full_precision_state
from mmacs.quantization.switchable import at_bits, at_each_bits, bit_widths, bits_set
from mmacs.quantization.width import Width
from mmacs.utils.errors import MmacsError

X = torch.randn(6, 3, 9, 9, generator=torch.Generator().manual_seed(3))


def net(recipe=None, **settings):
    """Two convolutions between the layers that see the image and predict."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6), nn.SiLU(),
        nn.Conv2d(6, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5),
    )  # fmt: skip
    model.train()(2 * X)  # BatchNorm has seen data
    if recipe is not None:
        rules = [dict(name=name, weight=dict(bits=8), activation=dict(bits=8)) for name in ('0', '9')]
        quantize_model(model, {**dict(preset=recipe, rules=rules), **settings})
        calibrate(model, [X])
    return model.eval()


def switchable(**settings):
    return net('w8a8', bit_widths=[2, 8, 4], **settings)


@pytest.mark.parametrize('kind', ['LSQ', 'DAQ'])
def test_each_width_starts_as_a_model_of_its_own(kind):
    settings = dict(activation=dict(type=kind))
    model = switchable(**settings)
    assert bit_widths(model) == (8, 4, 2) and bits_set(model) == 8
    for bits in (2, 8, 4):
        alone = net(f'w{bits}a{bits}', **settings)
        assert set_bits(model, bits) is model and bits_set(model) == bits
        assert torch.equal(model(X), alone(X))
        assert [(q.name, q.bits) for _, q in quantizers(model)] == [(q.name, q.bits) for _, q in quantizers(alone)]


def test_layers_with_bits_of_their_own_and_shared_quantizers():
    model = switchable(sharing='tensor')
    outputs = [set_bits(model, bits)(X) for bits in bit_widths(model)]
    assert not torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[1], outputs[2])
    assert {q.bits for name, q in quantizers(model) if name[0] in '09'} == {8}
    assert {q.bits for name, q in quantizers(model) if name[0] in '36'} == {2}


def test_a_checkpoint_holds_all_widths_whichever_is_set():
    model = switchable()
    with torch.no_grad():
        for number, (name, tensor) in enumerate(model.state_dict().items()):
            if tensor.is_floating_point() and 'weight_quantizer' not in name:
                tensor.mul_(1 + number / 100)
    expected = {bits: set_bits(model, bits)(X) for bits in (8, 4, 2)}
    set_bits(model, 8)
    state = copy.deepcopy(model.state_dict())
    specification = Specification.of(model)
    set_bits(model, 4)
    written, copied = model.state_dict(), copy.deepcopy(model)
    assert list(written) == list(state) and all(torch.equal(written[name], state[name]) for name in state)
    assert Specification.of(model) == specification and bits_set(model) == 4
    assert torch.equal(copied(X), expected[4])
    for bits in (8, 2):
        other = set_bits(switchable(), bits)
        assert str(other.load_state_dict(state)) == '<All keys matched successfully>'
        for each in (bits, 4, 8, 2):
            assert torch.equal(set_bits(other, each)(X), expected[each])
    damaged = {**state, '3.weight_quantizer.at_4.step_bits': torch.tensor([7], dtype=torch.uint8)}
    with pytest.raises(MmacsError, match='3.weight_quantizer has 4 bits, but the checkpoint has step sizes for 7'):
        switchable().load_state_dict(damaged)


def test_full_precision_weights_are_those_of_a_model_without_widths():
    model, plain = switchable(), net()
    assert list(full_precision_state(model)) == list(plain.state_dict())
    with torch.no_grad():
        plain[4].running_mean.add_(1)
    set_bits(model, 2)
    model.load_state_dict(plain.state_dict())  # strict: what quantizers and widths lack is no mistake
    for bits in (8, 4, 2):
        assert torch.equal(set_bits(model, bits)[4].running_mean, plain[4].running_mean)


def test_what_is_of_a_width_and_what_of_all():
    model = switchable()
    before = {bits: set_bits(model, bits)[4].running_mean.clone() for bits in (8, 4, 2)}
    names = [id(parameter) for parameter in set_bits(model, 8).parameters()]
    model.train()
    with at_bits(model, 4):
        model(X).sum().backward()
    assert bits_set(model) == 8 and [id(parameter) for parameter in model.parameters()] == names
    assert model[3].weight.grad is not None and model[3].weight_quantizer.step.grad is None
    assert model[3].weight_quantizer.at_4.step.grad is not None
    moved = {bits: not torch.equal(set_bits(model, bits)[4].running_mean, before[bits]) for bits in (8, 4, 2)}
    assert moved == {8: False, 4: True, 2: False}


def test_widths_survive_the_conversion_of_batch_norm_and_a_move():
    model = switchable()
    expected = set_bits(model, 4)(X)
    set_bits(model, 8)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    set_bits(converted, 4)
    assert sum(isinstance(module, Width) for module in converted.modules()) == 2 * (2 + 4)
    state = converted.state_dict()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    converted.load_state_dict(model.state_dict())
    assert torch.equal(converted[4].running_mean, set_bits(model, 4)[4].running_mean)
    assert_close(model.double().float()(X), expected)


def test_freezing_takes_the_width_that_is_set():
    model = set_bits(switchable(), 4)
    expected = model(X)
    assert torch.equal(mmacs.fold_batch_norm(freeze(copy.deepcopy(model)))(X).argmax(1), expected.argmax(1))
    frozen = freeze(model)
    assert torch.equal(frozen(X), expected)
    with pytest.raises(MmacsError, match='a frozen model keeps its bit-width'):
        set_bits(frozen, 2)


@pytest.mark.parametrize(
    ('recipe', 'message'),
    [
        (dict(preset='w8a8', bit_widths=8), 'bit_widths must be a list of two or more different integers'),
        (dict(preset='w8a8', bit_widths=[8, 8]), 'two or more different integers'),
        (dict(preset='w8a8', bit_widths=[8, 0]), 'bits must be an integer from 1 to 16'),
        (dict(preset='w4a4', bit_widths=[8, 4]), r'=\[8, 4\]: the widest must be the main bit-width .* weight 4'),
        (dict(preset='w4a8', bit_widths=[8, 4]), 'weight 4 and activation 8'),
        (dict(preset='w8a8', bit_widths=[8, 4], weight=dict(type='SLB')), 'is a SLB, which trains for one bit-width'),
        (dict(preset='w8a8', bit_widths=[8, 4], weight=dict(type='DQWeight')), 'is a DQWeight, which trains for one'),
        (dict(preset='w8a8', bit_widths=[8, 1], weight=dict(type='DoReFa')), 'DoReFa quantizes 1-bit weights in'),
    ],
)  # fmt: skip
def test_recipes_that_cannot_be_switched(recipe, message):
    with pytest.raises(MmacsError, match=message):
        quantize_model(net(), recipe)


def test_bits_that_a_model_has_not():
    with pytest.raises(MmacsError, match='bits must be one of the bit-widths of the model, 8, 4, 2, got 3'):
        set_bits(switchable(), 3)
    with pytest.raises(MmacsError, match='this Sequential has one bit-width alone'):
        set_bits(net('w4a4'), 4)


def test_batch_norm_is_reestimated_at_each_width():
    model = switchable()
    assert at_each_bits(model, lambda: reestimate_batch_norm(model, [X, X + 1])) == [2, 2, 2]
    for bits in (8, 4, 2):
        alone = net(f'w{bits}a{bits}')
        reestimate_batch_norm(alone, [X, X + 1])
        assert torch.equal(set_bits(model, bits)[4].running_var, alone[4].running_var)
