import math

import pytest

from mmacs.evaluation.paired import paired_difference


def test_a_difference_is_that_of_pairs_with_its_standard_error_and_t():
    ours, theirs = {0: 3.0, 1: 5.0, 2: 7.0, 9: 100.0}, {2: 4.0, 0: 2.0, 1: 3.0, 8: -50.0}
    found = paired_difference(ours, theirs)  # differences 1, 2, 3; seeds 8 and 9 have no partner
    assert found.mean == pytest.approx(2.0)
    assert found.standard_error == pytest.approx(1 / math.sqrt(3))
    assert found.pairs == 3
    assert found.t == pytest.approx(2 * math.sqrt(3))
    # of Student's t with two degrees of freedom: 1 - t / sqrt(t^2 + 2)
    assert found.p == pytest.approx(1 - math.sqrt(12 / 14))


def test_pairing_takes_out_what_a_seed_does_to_both():
    noise = [40.0, -30.0, 10.0, 0.0]
    theirs = dict(enumerate(noise))
    ours = {seed: value + 1 + 0.1 * (-1) ** seed for seed, value in theirs.items()}
    found = paired_difference(ours, theirs)
    assert found.mean == pytest.approx(1.0)
    assert found.standard_error < 0.1


def test_what_cannot_be_known_of_few_or_equal_pairs_is_none():
    assert paired_difference({0: 1.0}, {1: 2.0}) is None
    assert paired_difference({0: 1.0}, {0: 0.5}) == (0.5, None, 1, None, None)
    # 0.1 + 0.2 differs from 0.3 in the last bit
    assert paired_difference({0: 0.3, 1: 0.4}, {0: 0.1 + 0.2, 1: 0.4})[1:] == (0.0, 2, None, None)
