import copy
from functools import partial

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from torch import nn

from mmacs.coreset.scoring.head_hook import HeadHook
from mmacs.coreset.selection.loss_weights import inverse_probability_weights
from mmacs.utils.errors import MmacsError


def gradients(module, loss):
    return torch.autograd.grad(loss, list(module.parameters()))


def tapped_gradients(module, weights, loss):
    """Gradients of a loss that is computed while the module is hooked."""
    hook = HeadHook(module)
    hook.attach(weights=torch.tensor(weights))
    result = gradients(module, loss())
    hook.detach()
    return result


def assert_equal(actual, expected):
    assert any(gradient.abs().max() > 1e-4 for gradient in expected)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('weights', [[3.0, 0.0, 0.5, 1.0], [0.0, 0.0, 0.0, 2.0]])
def test_a_weighted_classifier_has_the_gradient_of_the_weighted_loss(weights):
    pytest.importorskip('mmpretrain.models')
    from mmpretrain.structures import DataSample

    head = MODELS.build(dict(type='LinearClsHead', num_classes=3, in_channels=8, _scope_='mmpretrain'))
    nn.init.normal_(head.fc.weight)
    features = torch.randn(4, 8)
    labels = [0, 2, 1, 2]
    samples = [DataSample().set_gt_label(label) for label in labels]
    losses = nn.functional.cross_entropy(head.fc(features), torch.tensor(labels), reduction='none')
    expected = gradients(head, (torch.tensor(weights) * losses).sum() / 4)
    assert_equal(tapped_gradients(head, weights, lambda: head.loss((features,), samples)['loss']), expected)


@pytest.fixture
def retina(tiny_retinanet):
    """The head of a RetinaNet, features of two images, and their data samples: one object, and three."""
    head = MODELS.build(dict(tiny_retinanet.bbox_head, train_cfg=tiny_retinanet.train_cfg))
    sizes = [8, 4, 2, 1, 1]
    features = [torch.randn(2, 16, size, size) for size in sizes]
    boxes = [[[4, 4, 40, 40]], [[0, 0, 30, 24], [20, 20, 60, 62], [33, 2, 60, 30]]]
    samples = []
    for image in boxes:
        sample = DetDataSample(metainfo=dict(img_shape=(64, 64), pad_shape=(64, 64), batch_input_shape=(64, 64)))
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor(image, dtype=torch.float32), labels=torch.arange(len(image))
        )
        samples.append(sample)
    return head, features, samples


def total(losses):
    return sum(sum(part) for part in losses.values())


@pytest.mark.parametrize('weights', [[1.0, 0.0], [2.5, 0.4]])
def test_a_weighted_detector_keeps_the_divisor_of_the_whole_batch(retina, monkeypatch, weights):
    head, features, samples = retina
    divisors = []
    get_targets = head.get_targets
    monkeypatch.setattr(
        head, 'get_targets', lambda *args, **kwargs: divisors.append((t := get_targets(*args, **kwargs))[-1]) or t
    )
    hooked = tapped_gradients(head, weights, lambda: total(head.loss(features, samples)))
    alone = [total(head.loss([level[i : i + 1] for level in features], samples[i : i + 1])) for i in range(2)]
    batch, first, second = divisors
    assert batch == first + second and first != second
    expected = (weights[0] * first * alone[0] + weights[1] * second * alone[1]) / batch
    assert_equal(hooked, gradients(head, expected))


def test_losses_stay_unweighted_and_half_precision_gradients_keep_their_type():
    module = nn.Linear(3, 2).to(torch.bfloat16)
    inputs = torch.randn(4, 3, dtype=torch.bfloat16)
    hook = HeadHook(module)
    hook.attach(weights=torch.tensor([0.0, 1.0, 2.0, 0.0]))
    hooked = module(inputs)
    assert torch.equal(hooked, nn.functional.linear(inputs, module.weight, module.bias))
    hooked.sum().backward()
    assert module.bias.grad.dtype == torch.bfloat16
    assert module.bias.grad.tolist() == [3, 3]


def test_records_detached_outputs_of_training_forwards_alone(retina):
    head, features, samples = retina
    recorded = []
    hook = HeadHook(head)
    hook.attach(record=recorded.append)
    outputs = head(features)
    head.eval()(features)
    assert len(recorded) == 1
    for parts, records in zip(outputs, recorded[0]):
        for part, record in zip(parts, records):
            assert torch.equal(part, record) and not record.requires_grad


def test_nothing_is_left_on_the_module():
    module = nn.Linear(3, 2)
    keys = list(module.state_dict())
    hook = HeadHook(module)
    recorded = []
    for _ in range(2):
        hook.attach(record=recorded.append)
    assert list(module.state_dict()) == keys
    module(torch.zeros(1, 3))
    assert len(recorded) == 1  # attached anew, not twice
    hook.detach()
    hook.detach()
    copy.deepcopy(module)(torch.zeros(1, 3))
    module(torch.zeros(1, 3))
    assert len(recorded) == 1 and not module._forward_hooks


@pytest.mark.parametrize('outputs', [torch.zeros(3, 2), torch.tensor(1.0)])
def test_outputs_that_are_not_batch_first(outputs):
    module = nn.Identity()
    HeadHook(module).attach(weights=torch.ones(2))
    with pytest.raises(MmacsError, match='batch first: Identity gave shape .* for 2 images'):
        module([outputs])


def systematic(probabilities, rng):
    """A draw of fixed size with given inclusion probabilities (Madow 1949)."""
    ends = np.cumsum(probabilities)
    points = rng.random() + np.arange(round(ends[-1]))
    return np.searchsorted(ends, points, side='right')


def test_the_mean_weighted_gradient_is_that_of_all_images():
    rng = np.random.default_rng(0)
    model, inputs = nn.Linear(3, 1), torch.randn(20, 3)
    targets = inputs.sum(1, keepdim=True) ** 2
    size, draws = 5, 2000
    difficulty = targets.squeeze(1).numpy() + 0.5
    probabilities = size * difficulty / difficulty.sum()
    assert probabilities.max() <= 1 and probabilities.min() < 0.1

    def flat(parts):
        return torch.cat([part.flatten() for part in parts])

    def loss(images):
        return (model(inputs[images]) - targets[images]).square().mean()

    def deviation(weigh):
        """Largest distance of the mean over draws from the full gradient, in standard errors."""
        drawn = [systematic(probabilities, rng) for _ in range(draws)]
        seen = torch.stack([flat(tapped_gradients(model, weigh(images), partial(loss, images))) for images in drawn])
        distance = (seen.mean(0) - flat(gradients(model, loss(slice(None))))).abs()
        return (distance / (seen.std(0) / draws**0.5)).max().item()

    weighted = deviation(lambda images: inverse_probability_weights(probabilities[images], size, 20).tolist())
    assert weighted < 3
    assert deviation(lambda images: [1.0] * size) > 30


def test_loss_weights_are_even_for_an_even_draw_and_clipped():
    np.testing.assert_allclose(inverse_probability_weights(np.full(4, 0.25), 4, 16), 1)
    np.testing.assert_allclose(inverse_probability_weights(np.array([0.5, 0.01]), 2, 8, w_max=3), [0.5, 3])


@pytest.mark.parametrize(
    ('probability', 'w_max', 'message'),
    [(0.0, 2, 'above 0'), (1.1, 2, 'at most 1'), (float('nan'), 2, 'above 0'), (0.5, 0.9, 'at least 1, got 0.9')],
)
def test_wrong_probabilities_and_bounds(probability, w_max, message):
    with pytest.raises(MmacsError, match=message):
        inverse_probability_weights(np.array([0.5, probability]), 2, 8, w_max)
