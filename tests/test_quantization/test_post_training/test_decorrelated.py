import itertools

import pytest
import torch
from torch import nn

from mmacs.quantization import calibrate, quantize_model
from mmacs.quantization.post_training.decorrelated import decorrelate, decorrelated_levels
from mmacs.quantization.post_training.gpfq import layers_to_follow
from mmacs.utils.errors import MmacsError


def signs(values):
    return torch.where(values >= 0, 0.5, -0.5).to(values)


def inputs(rows=200, columns=8, seed=0):
    """Correlated ones, and what quantizing makes of them."""
    draw = torch.Generator().manual_seed(seed)
    exact = torch.randn(rows, 3, generator=draw).double() @ torch.randn(3, columns, generator=draw).double()
    exact += 0.3 * torch.randn(rows, columns, generator=draw).double()
    return exact, exact.sign()


def test_no_single_level_could_be_better_and_the_best_of_all_is_hardly():
    for seed in range(10):
        exact, quantized = inputs(seed=seed)
        weight = 0.5 * torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(seed)).double()

        def error(levels, exact=exact, quantized=quantized, weight=weight):
            return (exact @ weight[0].T - quantized @ levels.T).square().sum(0)

        levels = decorrelated_levels(weight, (quantized.T @ quantized)[None], (quantized.T @ exact)[None], signs)[0]
        least = error(levels)
        assert set(levels.unique().tolist()) <= {-0.5, 0.5}
        for t in range(8):
            flipped = levels.clone()
            flipped[:, t] *= -1
            assert (error(flipped) >= least - 1e-9).all()
        every = torch.tensor(list(itertools.product((-0.5, 0.5), repeat=8))).double()
        best = torch.stack([error(one.expand(6, 8)) for one in every]).amin(0)
        nearest = error(signs(weight[0]))
        assert (least <= nearest + 1e-9).all()
        assert (least - best).sum() < 0.5 * (nearest - best).sum()


def test_where_nothing_is_read_levels_are_the_nearest():
    weight = torch.randn(2, 3, 4).double()
    nothing = torch.zeros(2, 4, 4).double()
    assert torch.equal(decorrelated_levels(weight, nothing, nothing, signs), signs(weight))


def converted(scale=1.0, **settings):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2), nn.ReLU(), nn.Conv2d(6, 2, 1))
    model[2].weight.data *= scale
    rules = [dict(name='2', weight=dict(bits=settings.pop('bits'), **settings), activation=dict(bits=1))]
    quantize_model(model, dict(preset='w8a8', rules=rules))
    images = [torch.rand(4, 8, 12, 12).cumsum(1) for _ in range(2)]
    calibrate(model, images)
    return model.eval(), images


@pytest.mark.parametrize('settings', [dict(bits=1), dict(bits=3, per_channel=False)])
def test_a_layer_loses_less_and_its_weights_still_learn(settings):
    model, images = converted(**settings)
    layer = model[2]
    read = model[:2](images[0])
    wanted = torch.conv2d(read, layer.weight, None, groups=2).detach()

    def lost():
        got = torch.conv2d(layer.input_quantizer(read), layer.quantized_weight(), None, groups=2)
        return (got - wanted).square().mean().item()

    before, lost_before, others = layer.weight.detach().clone(), lost(), model[0].weight.detach().clone()
    changed = decorrelate(model, {'2': layer}, images, lambda model, batch: model(batch))
    assert changed.keys() == {'2'} and 0 < changed['2'] < 0.5
    assert lost() < 0.8 * lost_before
    kept = layer.weight == before
    assert kept.float().mean().item() == pytest.approx(1 - changed['2'], abs=1e-6)
    assert torch.equal(model[0].weight, others)
    layer.weight_quantizer(layer.weight).sum().backward()
    assert (layer.weight.grad[~kept] != 0).all()


def test_weights_that_go_elsewhere_than_to_the_nearest_level_are_refused_and_left():
    model, images = converted(bits=3, type='DoReFa', scale=20.0)
    before = model[2].weight.detach().clone()
    with pytest.raises(MmacsError, match='DoReFa of 2 does not: take weight'):
        decorrelate(model, {'2': layers_to_follow(model)['2']}, images, lambda model, batch: model(batch))
    assert torch.equal(model[2].weight, before)


def test_a_layer_that_no_image_reaches_keeps_its_weights():
    model, images = converted(bits=3)
    before = model[2].weight.detach().clone()
    nothing = [batch[:0] for batch in images]  # as a head gets where nothing is proposed
    assert decorrelate(model, {'2': model[2]}, nothing, lambda model, batch: model(batch)) == {}
    assert torch.equal(model[2].weight, before)
