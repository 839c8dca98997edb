import numpy as np
import pytest

from mmacs.coreset.selection.trimming import noise_counts, suspicion, trimmed
from mmacs.utils.errors import MmacsError


def test_suspicion_is_the_rank_of_the_teachers_error_whatever_the_disagreement():
    rng = np.random.default_rng(0)
    error, ds = rng.random(200), 100 * rng.random(200)
    for found in (suspicion(error), suspicion(error, ds)):
        assert found.min() == 0.5 / len(found) and found.max() == 1 - 0.5 / len(found)
        assert (np.argsort(found) == np.argsort(error)).all()


def test_of_equal_errors_less_disagreement_is_more_suspicious():
    error, ds = np.array([1.0, 2.0, 2.0, 2.0, 3.0]), np.array([0.0, 0.5, 0.1, 0.5, 9.0])
    np.testing.assert_allclose(suspicion(error, ds), [0.1, 0.4, 0.7, 0.4, 0.9])
    np.testing.assert_allclose(suspicion(error), [0.1, 0.5, 0.5, 0.5, 0.9])


def test_wrong_labels_are_found_under_a_fallible_teacher():
    rng = np.random.default_rng(0)
    noisy, mistaken = rng.random(5000) < 0.2, rng.random(5000) < 0.05
    error = np.where(noisy | mistaken, rng.normal(1.3, 0.1, 5000), rng.normal(0.3, 0.2, 5000))
    counts = noise_counts(np.ones(5000, dtype=bool), noisy, trimmed(suspicion(error, rng.random(5000)), 0.2, rng))
    assert counts['trim_precision'] > 0.75 and counts['trim_recall'] > 0.75


@pytest.mark.parametrize('column', ['error', 'ds'])
def test_scores_that_are_not_finite_stop(column):
    scores = {'error': np.zeros(3), 'ds': np.zeros(3)}
    scores[column][1] = np.nan
    with pytest.raises(MmacsError, match='not finite, the first is that of image 1'):
        suspicion(scores['error'], scores['ds'])


@pytest.mark.parametrize('share, count', [(0.0, 0), (0.25, 2), (0.3, 2), (0.31, 2), (0.5, 4), (0.99, 7)])
def test_trims_exactly_a_share(share, count):
    rng = np.random.default_rng(0)
    assert trimmed(np.linspace(0, 1, 7), share, rng).sum() == trimmed(np.zeros(7), share, rng).sum() == count


def test_of_equal_suspicion_all_have_the_same_chance():
    equal = np.array([0.1, 0.5, 0.5, 0.5, 0.5, 0.9])
    counts = sum(trimmed(equal, 0.5, np.random.default_rng(seed)) for seed in range(300))
    assert counts[[0, 5]].tolist() == [0, 300] and np.abs(counts[1:5] - 150).max() < 4 * np.sqrt(300 / 4)


def test_trims_the_most_suspicious():
    assert np.flatnonzero(trimmed(np.array([0.5, 0.9, 0.1, 0.9, 0.4]), 0.6, np.random.default_rng(0))).tolist() == [
        0,
        1,
        3,
    ]


@pytest.mark.parametrize('share', [1, 1.0, -0.1, float('nan'), True, '0.2'])
def test_share_out_of_range(share):
    with pytest.raises(MmacsError, match='share of trimmed images must be at least 0 and below 1'):
        trimmed(np.zeros(3), share, np.random.default_rng(0))


def test_counts_of_noise():
    noisy = np.array([1, 1, 0, 0, 0, 0, 0, 1], dtype=bool)
    chosen = np.array([1, 0, 1, 1, 1, 0, 0, 0], dtype=bool)
    without = np.array([0, 1, 0, 0, 0, 1, 0, 0], dtype=bool)
    counts = noise_counts(chosen, noisy)
    assert counts == {'noisy_chosen': 1, 'noisy_share': 0.25, 'noisy_share_of_all': 0.375}
    found = noise_counts(chosen, noisy, without)
    assert found == {**counts, 'trim_precision': 0.5, 'trim_recall': pytest.approx(1 / 3)}
    nothing = np.zeros(8, dtype=bool)
    assert noise_counts(chosen, nothing, nothing)['trim_precision'] == 1
    assert noise_counts(chosen, nothing, without)['trim_recall'] == 1
