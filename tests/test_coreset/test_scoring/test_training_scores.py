import numpy as np
import pytest

from mmacs.coreset.scoring.training_scores import MIN_CORRELATION, MIN_PAIRS, align


@pytest.fixture
def exact():
    return np.random.default_rng(0).random(50).astype(np.float32)


def test_a_line_is_found_and_applied(exact):
    found = align((exact - 0.3) / 2, exact)
    assert found.sound and found.pairs == 50
    assert found[:3] == pytest.approx((2, 0.3, 1), rel=1e-4)
    np.testing.assert_allclose(found.apply(np.array([0.1, 0.2])), [0.5, 0.7], rtol=1e-4)


def test_the_line_is_that_of_least_squares_not_of_equal_spread(exact):
    # noise in harvested scores draws them to the mean: they say less than exact ones
    noisy = exact + np.random.default_rng(1).normal(0, 0.2, 50)
    slope = np.cov(noisy, exact)[0, 1] / noisy.var(ddof=1)
    found = align(noisy, exact)
    assert found.slope == pytest.approx(slope, rel=1e-4) and found.slope < 0.8
    assert found.apply(noisy).mean() == pytest.approx(exact.mean(), rel=1e-4)


def test_scores_that_order_images_otherwise_are_not_sound(exact):
    assert not align(1 - exact, exact).sound
    shuffled = align(np.random.default_rng(2).permutation(exact), exact)
    assert not shuffled.sound and shuffled.correlation < MIN_CORRELATION


def test_too_few_pairs_are_not_sound(exact):
    assert not align(exact[: MIN_PAIRS - 1], exact[: MIN_PAIRS - 1]).sound
    assert align(exact[:MIN_PAIRS], exact[:MIN_PAIRS]).sound
    for count in (0, 1):
        found = align(exact[:count], exact[:count])
        assert not found.sound and found.pairs == count and found.correlation == 0


def test_constant_scores_are_not_sound(exact):
    constant = np.full(50, 0.5, dtype=np.float32)
    for pair in ((constant, exact), (exact, constant)):
        found = align(*pair)
        assert not found.sound and found.correlation == 0


def test_an_exact_score_that_is_not_finite_is_left_to_be_named(exact):
    assert not align(exact, np.where(np.arange(50) == 3, np.nan, exact)).sound
