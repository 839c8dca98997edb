"""Weights that rest while the accuracy of a run stagnates."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel

from mmacs import WeightUpdateSkippingHook
from mmacs.hooks.weight_skipping_hook import _set_trained
from mmacs.quantization.weight_skipping import Skipping, resting_parameters
from mmacs.utils.errors import MmacsError

from .toy import Toy, assert_same_end, build, run

TOLD = [0.5, 0.5, 0.6, 0.7, 0.8]  # so weights rest in the third and fourth epochs


class Watch(Hook):
    """Keeps the parameters after each epoch, and whether weights had gradients."""

    priority = 'HIGHEST'

    def __init__(self):
        self.found, self.had_gradients = [], []

    def before_train(self, runner):
        step = runner.optim_wrapper.step

        def look(**kwargs):
            self.had_gradients.append(runner.model.second.weight.grad is not None)
            step(**kwargs)

        runner.optim_wrapper.step = look

    def after_train_epoch(self, runner):
        self.found.append({name: value.detach().clone() for name, value in runner.model.named_parameters()})


def test_weights_rest_and_the_others_go_on_and_a_killed_run_goes_on_alike(tmp_path):
    watch, hook = Watch(), WeightUpdateSkippingHook(tolerance=0.01, window=2)
    whole = run(tmp_path / 'whole', [watch, hook], 'w4a4', epochs=5, told=list(TOLD))
    resting = set(resting_parameters(whole.model))
    assert {'second.weight', 'second.weight_quantizer.step'} <= resting
    for epoch, rests in enumerate([False, True, True, False], start=1):
        before, after = watch.found[epoch - 1], watch.found[epoch]
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        assert ('second.weight' in moved) is not rests
        assert {'second.bias', 'norm.weight', 'second.input_quantizer.step'} <= moved
        assert not (rests and moved & resting)
    assert watch.had_gradients == [True] * 8 + [False] * 8 + [True] * 4
    assert all(parameter.requires_grad for parameter in whole.model.parameters())
    log = next((tmp_path / 'whole').glob('*/*.log')).read_text()
    assert 'top1 is 0.5, was 0.5: weights rest for 2 validations' in log
    assert 'Weights rested in 6 of 15 timed iterations, which saved' in log

    # killed before the validation that has weights rest; and within the window
    for epoch in (2, 3):
        hook, file = WeightUpdateSkippingHook(tolerance=0.01), str(tmp_path / 'whole' / f'epoch_{epoch}.pth')
        told = TOLD[epoch - 1 :]  # the checkpoint was written before the validation
        resumed = run(tmp_path / str(epoch), [hook], 'w4a4', epochs=5, told=told, resume=True, load_from=file)
        assert_same_end(resumed, whole)
        assert hook.state()['resting'][0] == 6


def test_a_quantized_layer_whose_weight_rests_computes_no_gradient_of_it():
    model = Toy('w4a4')
    _set_trained(model, resting_parameters(model), False)
    seen = []
    model.second.weight_quantizer.register_forward_hook(lambda module, args, y: seen.append(y.requires_grad))
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    assert seen == [False]
    assert model.second.input_quantizer.step.grad is not None


def test_what_cannot_work_is_refused(tmp_path, monkeypatch):
    for settings, message in (
        (dict(metric=3), 'metric must be the name'),
        (dict(tolerance=-1), 'tolerance must be a number'),
        (dict(window=0), 'window must be a whole number'),
    ):
        with pytest.raises(MmacsError, match=message):
            WeightUpdateSkippingHook(**settings)
    with pytest.raises(MmacsError, match='follows validation, and this run has no val_dataloader'):
        run(tmp_path / 'a', [WeightUpdateSkippingHook()])
    with pytest.raises(MmacsError, match='follows map, and validation gives top1: name one of these'):
        run(tmp_path / 'b', [WeightUpdateSkippingHook(metric='map')], told=[0.5])
    runner = build(tmp_path / 'c', [WeightUpdateSkippingHook()], told=[0.5])
    for name, parameter in runner.model.named_parameters():
        parameter.requires_grad_('norm' in name or name.endswith('bias'))
    with pytest.raises(MmacsError, match='without both weights and others there is nothing to skip'):
        runner.train()
    wrapped = object.__new__(MMDistributedDataParallel)
    vars(wrapped).update(_modules={'module': Toy()}, _parameters={}, find_unused_parameters=False)
    with pytest.raises(MmacsError, match='needs find_unused_parameters=True'):
        WeightUpdateSkippingHook().before_train(SimpleNamespace(model=wrapped, val_loop=0, iter=0))


@pytest.mark.parametrize(
    'change', [dict(left=-1), dict(left='x'), dict(previous='x'), dict(validated=None), dict(trained=[1]), dict(more=1)]
)
def test_a_state_that_is_none(change):
    hook = WeightUpdateSkippingHook()
    sound = dict(hook.state(), previous=0.5, left=1)
    hook.take_state(None, sound)
    assert hook.skipping == Skipping(0.5, 1)
    hook.take_state(None, dict(sound, left=9))  # of a config with a longer window
    assert hook.skipping == Skipping(0.5, 2)
    with pytest.raises(MmacsError, match='in the checkpoint are damaged'):
        hook.take_state(None, {**sound, **change})
