"""Layers that get their bits one after the other."""

from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from mmengine.runner import EpochBasedTrainLoop

from mmacs import ProgressiveBitsHook
from mmacs.quantization import calibrate, quantize_model, quantizers
from mmacs.utils.errors import MmacsError

from .toy import Toy, assert_same_end, build, images, run

RECIPE = dict(preset='w1a1', rules=[dict(name='head', weight=dict(bits=8), activation=dict(bits=8))])


class Progressive(ProgressiveBitsHook):
    """Calibrates on all images of the toy; notes the bits of each epoch."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.seen = []

    def before_train_epoch(self, runner):
        super().before_train_epoch(runner)
        self.seen.append((*self.bits.values(), bits_of(runner.model)['first.weight_quantizer']))

    def quantization_hook(self, runner):
        batches = [dict(inputs=torch.stack([image['inputs'] for image in images()]))]
        return SimpleNamespace(
            calibrate=lambda runner: calibrate(runner.model, batches, lambda data: runner.model(**data)),
            calibration_batches=lambda runner: [dict(batch, labels=torch.zeros(16)) for batch in batches],
        )


def bits_of(model):
    return {name: quantizer.bits for name, quantizer in quantizers(model)}


def test_layers_go_over_from_the_input_on_and_a_killed_run_goes_on_alike(tmp_path):
    hook = Progressive()
    whole = run(tmp_path / 'whole', [hook], RECIPE, epochs=4)
    assert hook.seen == [(1, 8, 8), (1, 1, 8), (1, 1, 8), (1, 1, 8)]
    assert len(whole.model.second.quantized_weight()[0].unique()) == 2

    resumed_hook, file = Progressive(), str(tmp_path / 'whole' / 'epoch_1.pth')
    resumed = run(tmp_path / 'resumed', [resumed_hook], RECIPE, epochs=4, resume=True, load_from=file)
    assert resumed_hook.seen == hook.seen[1:]
    assert_same_end(resumed, whole)

    # to be evaluated, of an epoch between, and without the hook by the recipe alone
    tested = build(tmp_path / 'tested', [Progressive()], RECIPE, load_from=file)
    tested.load_or_resume()
    assert [tested.model.get_submodule(name).weight_quantizer.bits for name in ('second', 'third')] == [1, 8]
    assert bits_of(whole.model) == bits_of(quantize_model(Toy(), RECIPE))


def test_ranges_are_those_of_the_network_as_it_is_and_levels_are_chosen_if_asked(tmp_path):
    torch.manual_seed(0)
    for decorrelate in (True, False):
        hook, model = Progressive(epochs=1, decorrelate=decorrelate), Toy(RECIPE)
        runner = SimpleNamespace(model=model, epoch=0, max_epochs=1, iter=0, hooks=[], logger=Mock(), visualizer=Mock())
        hook.before_run(runner)
        before = model.second.weight.detach().clone()
        hook.before_train_epoch(runner)
        after = model.second.weight.detach()
        torch.testing.assert_close(model.second.weight_quantizer.step.mean(), 2 * before.abs().mean())
        assert torch.equal(before.sign(), after.sign()) != decorrelate
        assert all(quantizer.is_initialized() for _, quantizer in quantizers(model))
        assert model.training


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(epochs=0), 'epochs must be a whole number'),
        (dict(first_bits=17), 'first_bits must be at most 16, got 17'),
        (dict(decorrelate=1), 'decorrelate must be True or False'),
        (dict(epochs=11), 'epochs=11 of ProgressiveBitsHook must be at most the 10 epochs of the run'),
    ],
)
def test_what_cannot_work_is_refused(settings, message):
    runner = SimpleNamespace(model=Toy('w1a1'), hooks=[], logger=Mock(), visualizer=Mock(), iter=0, cfg={})
    runner.train_loop, runner.max_epochs = Mock(spec=EpochBasedTrainLoop), 10
    with pytest.raises(MmacsError, match=message):
        hook = ProgressiveBitsHook(**settings)
        hook.before_run(runner)
        hook.before_train(runner)
