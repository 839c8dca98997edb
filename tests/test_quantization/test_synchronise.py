import pytest
import torch
from torch import nn

from mmacs.quantization import calibrate, quantize_model, synchronise


@pytest.mark.parametrize(
    ('activation', 'ranges'),
    [('OCTAV', ['clip']), ('DQActivation', ['clip']), ('EMAMinMax', ['low', 'high']), ('LSQ', [])],
)
def test_ranges_that_follow_activations_are_averaged_over_processes(monkeypatch, activation, ranges):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1))
    quantize_model(model, dict(weight=dict(type='OCTAV'), activation=dict(type=activation)))
    calibrate(model, [torch.randn(2, 3, 8, 8)])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    sent = []

    def mean_with_a_process_of_twice_the_range(flat):
        sent.append(flat.numel())
        flat.mul_(1.5)

    monkeypatch.setattr(synchronise, 'world_size', lambda: 2)
    monkeypatch.setattr(synchronise, 'average', mean_with_a_process_of_twice_the_range)
    synchronise.synchronise_ranges(synchronise.following_quantizers(model))
    moved = {f'{layer}.input_quantizer.{name}' for layer in (0, 2, 3) for name in ranges}
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key] * 1.5 if key in moved else before[key]), key
    assert sent == ([len(moved)] if moved else [])  # one collective operation, or none
