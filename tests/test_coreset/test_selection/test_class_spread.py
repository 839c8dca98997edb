import numpy as np
import pytest
from scipy.sparse import csr_matrix

from mmacs.coreset.selection.class_spread import class_spread, random_spread, whip_saw


def test_spread_of_equally_frequent_classes_is_the_standard_deviation_over_the_mean():
    rng = np.random.default_rng(0)
    for _ in range(50):
        chosen = rng.integers(0, 30, rng.integers(1, 9)) + 1
        expected = chosen.std() / chosen.mean()
        assert class_spread(np.full(len(chosen), 100), chosen) == pytest.approx(expected)


def test_spread_of_shares_that_are_kept_is_none_and_that_of_one_class_known():
    counts = np.array([10, 0, 30, 60])
    assert class_spread(counts, counts // 10) == 0
    assert class_spread(counts, np.array([7, 0, 0, 0])) == pytest.approx(3)  # sqrt(1 / 0.1 - 1)
    assert class_spread(np.zeros(0), np.zeros(0)) == class_spread(counts, 0 * counts) == 0


@pytest.mark.parametrize('size', [1, 20, 90, 100])
def test_spread_of_a_random_draw(size):
    rng, classes = np.random.default_rng(1), np.random.default_rng(2).integers(0, 5, 100)
    counts = np.bincount(classes)
    drawn = [np.bincount(classes[rng.choice(100, size, replace=False)], minlength=5) for _ in range(2000)]
    squares = [class_spread(counts, own) ** 2 for own in drawn]
    assert np.sqrt(np.mean(squares)) == pytest.approx(random_spread(counts, size, 100), rel=0.1, abs=1e-9)


def test_a_coreset_of_few_classes_is_told_and_a_random_or_balanced_one_is_not():
    rng = np.random.default_rng(0)
    for objects in (1, 3):
        held = np.zeros((1000, 10), dtype=bool)
        held[np.arange(1000)[:, None], rng.integers(0, 10, (1000, objects))] = True
        labels, of_two = csr_matrix(held), np.flatnonzero(held[:, :2].any(1))
        assert 'class whip-saw' in whip_saw(labels, of_two[:100])
        assert not any(whip_saw(labels, rng.choice(1000, 100, replace=False)) for _ in range(100))
    assert whip_saw(csr_matrix((20, 0), dtype=bool), np.arange(3)) == ''
