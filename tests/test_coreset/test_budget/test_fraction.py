"""Epochs of different size have as many images and batches in all as epochs of one size."""

from math import ceil

import numpy as np
import pytest

from mmacs.coreset.budget.fraction import FractionSchedule, epoch_sizes, read_fraction
from mmacs.coreset.selection.selectors import coreset_size
from mmacs.utils.errors import MmacsError


def sizes_of(schedule, epochs, images, batch, drop_last=False):
    mean = coreset_size(schedule.mean, images)
    batches = mean // batch if drop_last else ceil(mean / batch)
    return mean, batches, epoch_sizes(schedule, epochs, images, mean, batch, batches)


@pytest.mark.parametrize('kind', ['constant', 'cosine', 'oscillating'])
@pytest.mark.parametrize(('start', 'end'), [(0.3, 0.1), (0.05, 0.95), (1.0, 0.01), (0.2, 0.2)])
@pytest.mark.parametrize(('epochs', 'images', 'batch'), [(8, 1000, 16), (7, 997, 32), (1, 50, 8), (30, 203, 1)])
@pytest.mark.parametrize('drop_last', [False, True])
def test_images_and_batches_add_up_to_those_of_a_constant_fraction(kind, start, end, epochs, images, batch, drop_last):
    schedule = FractionSchedule(kind, start, end)
    mean, batches, sizes = sizes_of(schedule, epochs, images, batch, drop_last)
    assert sizes.sum() == epochs * mean and len(sizes) == epochs
    assert sizes.min() >= 1 and sizes.max() <= images
    found = sizes // batch if drop_last else -(-sizes // batch)
    assert found.sum() == epochs * batches and found.min() >= 1
    wanted = schedule.shares(epochs) * images
    if wanted.min() > batch and wanted.max() < images - batch:
        assert np.abs(sizes - wanted).max() <= batch + 1
    if kind == 'cosine':
        steps = np.diff(sizes) * np.sign(end - start)
        assert (steps >= 0).all()


def test_what_the_kinds_are():
    assert sizes_of(FractionSchedule('constant', 0.3, 0.1), 4, 1000, 16)[2].tolist() == [200] * 4
    assert sizes_of(FractionSchedule('oscillating', 0.3, 0.1), 4, 1000, 10)[2].tolist() == [300, 100, 300, 100]
    assert sizes_of(FractionSchedule('oscillating', 0.1, 0.4), 3, 1000, 10)[2].tolist() == [150, 450, 150]
    cosine = sizes_of(FractionSchedule('cosine', 0.4, 0.0001), 5, 10000, 1)[2]
    assert cosine[2] == 2000 and cosine[0] > 3800 and cosine[4] < 200


@pytest.mark.parametrize(
    ('fraction', 'message'),
    [
        (dict(type='cosin', start=0.1, end=0.1), 'did you mean'),
        (dict(type='cosine', start=0, end=0.1), 'start of fraction must be above 0 and at most 1, got 0'),
        (dict(type='cosine', start=0.1, end='x'), "end of fraction must be above 0 and at most 1, got 'x'"),
        (dict(type='cosine', start=0.1), 'must be a number or a dict such as'),
        (dict(type='cosine', start=0.1, end=0.2, stop=1), "unknown setting of fraction 'stop'"),
        ({}, 'must be a number or a dict such as'),
        (dict(type=5, start=0.1, end=0.2), 'type of fraction'),
    ],
)
def test_mistakes_are_named(fraction, message):
    with pytest.raises(MmacsError, match=message):
        read_fraction(fraction)
