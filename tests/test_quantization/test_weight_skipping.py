"""When weights rest, and which parameters do."""

import pytest
from torch import nn

from mmacs.quantization import quantize_model
from mmacs.quantization.weight_skipping import Skipping, resting_parameters


@pytest.mark.parametrize(
    ('accuracies', 'rests'),
    [
        ([10, 20, 30], [0, 0, 0]),
        ([10, 10.05, 10.1, 10.1, 10.1, 10.1], [0, 2, 1, 0, 2, 1]),  # trained for one validation between two windows
        ([10, 9, 9, 20, 30, 40], [0, 0, 2, 1, 0, 0]),  # a fall is no stagnation; a window lasts, whatever comes
        ([float('nan'), float('nan'), 10, 10], [0, 0, 0, 2]),
        ([0, 0], [0, 2]),
    ],
)
def test_weights_rest_for_a_window_once_accuracy_stagnates(accuracies, rests):
    skipping, found = Skipping(), []
    for accuracy in accuracies:
        skipping = skipping.after(accuracy, tolerance=0.01, window=2)
        found.append(skipping.left)
    assert found == rests


def test_biases_norms_and_steps_of_activations_go_on():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    net[0].weight.requires_grad_(False)  # frozen by the config with what rounds it, and never to be trained
    quantize_model(net, dict(preset='w4a4', weight=dict(type='LSQ'), activation=dict(type='LSQ')))
    trained = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert trained - set(resting_parameters(net)) == {
        '0.bias',
        '1.weight',
        '1.bias',
        '2.bias',
        '2.input_quantizer.step',
        '4.bias',
        '4.input_quantizer.step',
    }
