import numpy as np
import pytest

from mmacs.coreset import class_balanced_top_k, coreset_size, digest, top_k
from mmacs.errors import MmacsError


@pytest.mark.parametrize('fraction', [0, -0.1, 1.01, float('nan'), True, '0.5'])
def test_fraction_out_of_range(fraction):
    with pytest.raises(MmacsError, match='fraction must be above 0 and at most 1'):
        coreset_size(fraction, 10)


def test_size_is_rounded_and_never_zero():
    assert [coreset_size(fraction, 10) for fraction in (0.26, 0.01, 1)] == [3, 1, 10]


def test_top_k_breaks_ties_by_index():
    assert top_k(np.array([1.0, 3.0, 1.0, 3.0, 1.0]), 3).tolist() == [0, 1, 3]


def test_class_balance_keeps_shares_and_the_exact_total():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [70, 20, 11])
    scores = rng.random(101)
    for size in (1, 10, 50, 101):
        chosen = class_balanced_top_k(scores, labels, size)
        counts = np.bincount(labels[chosen], minlength=3)
        assert len(np.unique(chosen)) == size
        assert (np.abs(counts - size * np.array([70, 20, 11]) / 101) < 1).all()
    for label in range(3):
        own = np.flatnonzero(labels == label)
        chosen = np.intersect1d(class_balanced_top_k(scores, labels, 50), own)
        assert scores[chosen].min() > np.delete(scores[own], np.searchsorted(own, chosen)).max()


def test_digest_tells_selections_apart_whatever_the_integer_type():
    assert digest(np.array([1, 2], dtype=np.int32)) == digest(np.array([1, 2], dtype=np.int64))
    assert digest(np.array([1, 2])) != digest(np.array([1, 3]))
