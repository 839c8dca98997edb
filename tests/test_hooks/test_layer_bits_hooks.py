"""Bit-widths of single layers that change between the epochs of a run: by activation density, by gradients of bits."""

import json
import math
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from mmacs import ActivationDensityHook, AdaptiveBitsHook, BitGradientHook, WeightUpdateSkippingHook
from mmacs.hooks.changing_bits import mean_bits
from mmacs.hooks.optim_wrapper import CpuAmpOptimWrapper
from mmacs.quantization import quantize_model, quantizers
from mmacs.quantization.learned_bits import layer_participants
from mmacs.utils.errors import MmacsError

from .toy import Toy, assert_same_end, build, images, run

MAKE = {
    'density': lambda **settings: ActivationDensityHook(**{'tolerance': 1.0, **settings}),  # saturated at once
    'gradient': lambda **settings: BitGradientHook(**{'mean_bits': 5.0, 'interval': 2, **settings}),
}


def bits_of(model):
    return {name: quantizer.bits for name, quantizer in quantizers(model)}


def test_a_layer_is_its_weight_and_the_inputs_that_follow():
    model = Toy('w8a8')
    assert layer_participants(model) == {
        layer: [f'{layer}.weight_quantizer', f'{layer}.input_quantizer'] for layer in ('second', 'third')
    }
    rules = [dict(name='second', weight=dict(bits=8)), dict(name='third', activation=dict(bits=8))]
    kept = quantize_model(Toy(), dict(preset='w8a8', rules=rules))
    assert layer_participants(kept) == {'third': ['third.weight_quantizer']}
    assert layer_participants(quantize_model(Toy(), 'w4a8'))['second'] == ['second.weight_quantizer']


@pytest.mark.parametrize('kind', MAKE)
def test_bits_change_and_a_killed_run_goes_on_alike(tmp_path, kind):
    hook = MAKE[kind]()
    whole = run(tmp_path / 'whole', [hook], 'w8a8', epochs=4)
    assert set(hook.bits) == {'second', 'third'}
    assert all(bits < 8 for bits in hook.bits.values()) or kind == 'gradient'
    found = bits_of(whole.model)
    for layer, bits in hook.bits.items():
        assert found[f'{layer}.weight_quantizer'] == found[f'{layer}.input_quantizer'] == bits
    assert found['first.weight_quantizer'] == found['head.input_quantizer'] == 8

    for epoch in (1, 3):  # in the middle of an interval, and after bits have changed
        resumed_hook, file = MAKE[kind](), str(tmp_path / 'whole' / f'epoch_{epoch}.pth')
        resumed = run(tmp_path / str(epoch), [resumed_hook], 'w8a8', epochs=4, resume=True, load_from=file)
        assert resumed_hook.bits == hook.bits and resumed_hook.epochs == hook.epochs
        assert_same_end(resumed, whole)

    # without the hook the checkpoint loads in the recipe that is written
    recipe = json.loads((tmp_path / 'whole' / 'recipe.json').read_text())
    model = quantize_model(Toy(), recipe)
    assert bits_of(model) == found
    # and with it, to be evaluated
    tested = build(tmp_path / 'tested', [MAKE[kind]()], 'w8a8', load_from=str(tmp_path / 'whole' / 'epoch_4.pth'))
    tested.load_or_resume()
    assert bits_of(tested.model) == found
    assert_same_end(tested, whole)


def test_bits_of_density_are_those_of_what_layers_read(tmp_path):
    seen = {}

    class Look(ActivationDensityHook):
        def before_train_epoch(self, runner):
            if runner.epoch == 2:
                seen.update(now=dict(self.epochs[-1]), bits=dict(self.bits))
            super().before_train_epoch(runner)

    hook = Look(tolerance=1.0, freeze_epoch=3)
    runner = run(tmp_path, [hook], 'w8a8', epochs=4)
    assert seen['bits'] == {'second': 8, 'third': 8}
    assert all(0.2 < density < 0.8 for density in seen['now'].values())  # after a ReLU
    assert hook.bits == {layer: math.floor(8 * density + 0.5) for layer, density in seen['now'].items()}
    assert not any(module._forward_pre_hooks for module in runner.model.modules())


def test_a_model_without_zeros_keeps_its_bits(tmp_path, monkeypatch):
    monkeypatch.setattr('tests.test_hooks.toy.F.relu', torch.nn.functional.silu)
    hook = ActivationDensityHook(tolerance=1.0)
    run(tmp_path, [hook], 'w8a8', epochs=3)
    assert hook.bits == {'second': 8, 'third': 8}


def measured_gradient(kind):
    """What a hook measures in one iteration, and the gradients written out."""
    hook, model = BitGradientHook(mean_bits=4.0), Toy('w4a4')
    wrapper = kind(optimizer=torch.optim.SGD(model.parameters(), 0.1))
    runner = SimpleNamespace(model=model, optim_wrapper=wrapper, iter=0)
    hook.before_run(runner)
    hook.begin()
    end = hook.watch(runner)
    batch = dict(inputs=torch.stack([image['inputs'] for image in images()]), labels=torch.arange(16) % 4)
    with wrapper.optim_context(model):
        loss = model(**batch, mode='loss')['loss']
    wrapper.backward(loss)
    end()
    expected = {}
    for layer in ('second', 'third'):
        quantizer, weight = model.get_submodule(layer).weight_quantizer, model.get_submodule(layer).weight
        expected[layer] = (weight.grad.abs() * quantizer.grid().step[:, None, None, None]).sum().item() * 2**4
    return hook._sums, expected


def test_gradients_are_those_of_the_rounded_weights():
    found, expected = measured_gradient(OptimWrapper)
    for layer, value in expected.items():
        # the straight-through gradient of the weight itself is 0 where it is clipped, so it is no more
        assert value <= found[layer].item() <= 1.5 * value
    rough, _ = measured_gradient(CpuAmpOptimWrapper)
    for layer, value in found.items():
        torch.testing.assert_close(rough[layer], value, rtol=0.05, atol=0)


def test_the_budget_is_met_and_the_solution_goes_to_the_layer_that_feels_it(tmp_path):
    hook = BitGradientHook(mean_bits=5.0, candidates=(2, 3, 4, 8))
    runner = run(tmp_path, [hook], 'w8a8', epochs=2)
    assert mean_bits(runner.model) <= 5.0
    model = runner.model
    hook.epochs = [{'second': 0.999, 'third': 0.001}]
    favoured = hook.next_bits(model)
    hook.epochs = [{'second': 0.001, 'third': 0.999}]
    assert favoured['second'] > hook.next_bits(model)['second']


def made_up(model, hooks, **changes):
    runner = SimpleNamespace(model=model, hooks=hooks, logger=Mock(), visualizer=Mock(), iter=0, cfg={})
    runner.train_loop, runner.max_epochs, runner.optim_wrapper = Mock(spec=EpochBasedTrainLoop), 10, Mock()
    vars(runner).update(changes)
    return runner


@pytest.mark.parametrize('kind', MAKE)
def test_a_new_run_from_a_checkpoint_has_its_bits_and_measures_anew(kind):
    hook, runner = MAKE[kind](), made_up(Toy('w8a8'), [])
    hook.before_run(runner)
    shares = {'second': 0.1, 'third': 0.9}
    hook.after_load_checkpoint(runner, {hook.state_key: dict(bits={'second': 8, 'third': 4}, epochs=[shares] * 2)})
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    assert hook.bits == {'second': 8, 'third': 4}


def refused(model, hook, message, hooks=(), **changes):
    runner = made_up(model, [hook, *hooks], **changes)
    with pytest.raises(MmacsError, match=message):
        hook.before_run(runner)
        hook.before_train(runner)


def test_runs_that_cannot_work_are_refused_before_they_train():
    model = Toy('w8a8')
    for make in MAKE.values():
        refused(Toy(), make(), 'found nothing quantized')
        refused(model, make(), 'does not go with EMAHook', [EMAHook()])
        refused(model, make(), 'both change bit-widths', [AdaptiveBitsHook()])
        refused(model, make(), 'counts epochs: train by epochs', train_loop=Mock(spec=IterBasedTrainLoop))
        refused(model, make(freeze_epoch=10), 'freeze_epoch must be below max_epochs')
        refused(model, make(), 'compiled models do not show: leave out compile', cfg=dict(compile=True))
        refused(model, make(), 'written by a run without', iter=3)
    refused(model, BitGradientHook(mean_bits=2.0), 'no choice of bit-widths fits a budget of 2: the smallest feasible')
    refused(model, BitGradientHook(size_mb=1e-6), 'no choice of bit-widths fits')
    refused(model, MAKE['gradient'](), 'leaves them out', [WeightUpdateSkippingHook()])
    learned_levels = quantize_model(Toy(), dict(preset='w8a8', weight=dict(type='DQWeight')))
    refused(learned_levels, MAKE['gradient'](), 'DQWeight')
    refused(learned_levels, MAKE['density'](), 'DQWeight')


@pytest.mark.parametrize(
    ('make', 'settings', 'message'),
    [
        ('density', dict(tolerance=2), 'tolerance must be a number from 0 to 1, got 2'),
        ('density', dict(min_bits=0), 'min_bits must be a whole number'),
        ('gradient', dict(mean_bits=None), 'needs mean_bits or size_mb, one of them'),
        ('gradient', dict(size_mb=3), 'needs mean_bits or size_mb, one of them'),
        ('gradient', dict(mean_bits='x'), "mean_bits must be a number above 0, got 'x'"),
        ('gradient', dict(candidates=[4]), 'candidates must be a list of at least two'),
        ('gradient', dict(candidates=[4, 40]), 'two bit-widths from 1 to 16, got '),
        ('gradient', dict(interval=0), 'interval must be a whole number'),
    ],
)
def test_wrong_settings(make, settings, message):
    with pytest.raises(MmacsError, match=message):
        MAKE[make](**settings)


@pytest.mark.parametrize(
    'change',
    [
        dict(bits=[8]),
        dict(bits={'second': 8.5, 'third': 8}),
        dict(bits={'second': 0, 'third': 8}),
        dict(epochs=5),
        dict(epochs=[{'second': 0.5}]),
        dict(epochs=[{'second': 0.5, 'third': float('nan')}]),
        dict(more=1),
    ],
)
def test_a_state_that_is_none(change):
    hook, runner = MAKE['gradient'](), SimpleNamespace(model=Toy('w8a8'))
    hook.before_run(runner)
    sound = dict(bits={'second': 8, 'third': 2}, epochs=[{'second': 0.5, 'third': 0.5}])
    hook.after_load_checkpoint(runner, {hook.state_key: sound})
    assert bits_of(runner.model)['third.weight_quantizer'] == 2
    for state in ({**sound, **change}, [change]):
        with pytest.raises(MmacsError, match='the bits of layers in the checkpoint are damaged'):
            hook.after_load_checkpoint(runner, {hook.state_key: state})
    with pytest.raises(MmacsError, match='has bits for 1 layers, and the recipe leaves those of 2'):
        hook.after_load_checkpoint(runner, {hook.state_key: dict(bits={'second': 8}, epochs=[])})
