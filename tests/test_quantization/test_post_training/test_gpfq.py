"""GPFQ on networks."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mmacs.quantization import calibrate, quantize_model, quantizers
from mmacs.quantization.post_training import follow_paths, layers_to_follow
from mmacs.quantization.post_training.neuron_inputs import MAX_ROWS, rows_of, run_to
from mmacs.utils.errors import MmacsError


def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, groups=2, padding_mode='reflect', padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 12, 1, groups=2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(48, 6),
    ).eval()


def run(model, batch):
    return model(batch)


@pytest.fixture(scope='module')
def batches():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(4, 3, 12, 12, generator=generator).cumsum(3) for _ in range(6)]


def calibrated(model, batches, recipe):
    model = quantize_model(copy.deepcopy(model), recipe)
    calibrate(model, batches)
    return model


@pytest.mark.parametrize('recipe', ['w4a8', dict(preset='w4a4', activation=dict(per_channel=True))])
def test_a_network_comes_nearer_to_full_precision_and_only_its_weights_change(batches, recipe):
    full_precision = network()
    model = calibrated(full_precision, batches[:4], recipe)
    before = copy.deepcopy(model)
    layers = layers_to_follow(model)
    assert list(layers) == ['0', '2', '6', '9']  # not the one with another padding
    assert list(follow_paths(model, layers, batches[:4], run)) == list(layers)
    with torch.no_grad():
        near, far = (
            sum((each(batch) - full_precision(batch)).square().sum() for batch in batches[4:])
            for each in (model, before)
        )
    assert near < 0.5 * far
    changed = {
        name
        for (name, value), old in zip(model.state_dict().items(), before.state_dict().values())
        if not torch.equal(value, old)
    }
    assert changed == {f'{name}.weight' for name in layers}
    for layer in layers.values():
        assert_close(layer.quantized_weight(), layer.weight.detach())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_rows_times_weights_are_what_the_layer_computes(batches):
    model = calibrated(network(), batches, 'w4a4')
    layers = layers_to_follow(model)
    model.eval()
    with torch.no_grad():
        for name, layer in layers.items():
            outputs = []
            handle = layer.register_forward_hook(lambda *args, outputs=outputs: outputs.append(args[2]))
            (x,) = run_to(layer, lambda: model(batches[0]), 1)
            handle.remove()
            groups = getattr(layer, 'groups', 1)
            weight = layer.quantized_weight().reshape(groups, layer.weight.shape[0] // groups, -1)
            computed = torch.cat([rows @ weight.transpose(1, 2) for rows in rows_of(layer, x)], 1)
            computed = computed.movedim(1, -1).flatten(0, 1) + layer.bias[:, None]  # (channels, places of all images)
            assert_close(computed, outputs[0].transpose(0, 1).flatten(1), msg=name)


def test_a_layer_that_runs_several_times_and_one_that_does_not_run(batches):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.idle = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(2, 2)

        def forward(self, x):
            return self.conv(x) + self.conv(self.conv(x))

    model = calibrated(Shared().eval(), batches, 'w4a4')
    idle = model.idle.weight.clone()
    assert list(follow_paths(model, layers_to_follow(model), batches, run)) == ['conv']
    assert torch.equal(model.idle.weight, idle)
    assert len(run_to(model.conv, lambda: model(batches[0]), 3)) == 3


def test_proposals_of_each_network_are_not_compared(batches):
    class Chooses(nn.Module):
        def __init__(self):
            super().__init__()
            self.score, self.head = nn.Linear(12, 1), nn.Linear(12, 6)

        def forward(self, x):
            rows = x.flatten(0, 2)
            return self.head(rows[self.score(rows).flatten() > 0])

    full_precision = Chooses().eval()
    model = calibrated(full_precision, batches, 'w4a4')
    before = copy.deepcopy(model)
    assert list(follow_paths(model, layers_to_follow(model), batches, run)) == ['score', 'head']
    rows = torch.cat(batches).flatten(0, 2)
    with torch.no_grad():
        wanted = full_precision.head(rows)
        near, far = ((each.head(rows) - wanted).square().sum() for each in (model, before))
    assert near < far


def test_at_most_so_many_rows_of_an_image():
    layer = calibrated(nn.Sequential(nn.Conv2d(1, 1, 1)), [torch.rand(1, 1, 8, 8)], 'w4a4')[0]
    (rows,) = rows_of(layer, torch.arange(10000.0).reshape(1, 1, 100, 100))
    assert rows.shape == (1, MAX_ROWS, 1) and rows[0, 0] == 0 and rows[0, -1] == 9999


def test_weights_that_quantizing_moves_again_are_refused(batches):
    recipe = dict(preset='w4a4', weight=dict(type='DoReFa'))
    model = calibrated(network(), batches, recipe)
    with pytest.raises(MmacsError, match='stay where they are rounded to, and DoReFa of 0 moves them'):
        list(follow_paths(model, layers_to_follow(model), batches, run))
    assert all(quantizer.enabled for _, quantizer in quantizers(model))
