import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from mmacs.coreset import beta, disagreement_score, error_vector_score
from mmacs.coreset.scoring.scores import reducible_error, round_scores
from mmacs.coreset.selection.normalisation import count_strata, normalise
from mmacs.utils.errors import MmacsError


def test_scores_equal_a_loop_over_images():
    probs, teacher = torch.randn(2, 7, 5).softmax(2)
    labels = torch.randint(5, (7,))
    for i in range(7):
        expected = math.dist(probs[i], teacher[i])
        assert disagreement_score(probs, teacher)[i].item() == pytest.approx(expected, rel=1e-5)
        onehot = torch.zeros(5)
        onehot[labels[i]] = 1
        assert error_vector_score(probs, labels)[i].item() == pytest.approx(math.dist(probs[i], onehot), rel=1e-5)


def test_scores_leave_their_arguments_alone_and_reach_their_bounds():
    probs = torch.eye(3)
    before = probs.clone()
    assert error_vector_score(probs, torch.tensor([1, 2, 0])).tolist() == pytest.approx([2**0.5] * 3)
    assert error_vector_score(probs, torch.tensor([0, 1, 2])).tolist() == [0, 0, 0]
    assert torch.equal(probs, before)


@pytest.mark.parametrize(
    ('schedule', 'quarter', 'half'),
    [
        ('cosine', math.cos(math.pi / 8), 0.5**0.5),
        ('half_cosine', 0.8535534, 0.5),
        ('linear', 0.75, 0.5),
        ('sqrt', 0.5, 1 - 0.5**0.5),
        ('quadratic', 0.9375, 0.75),
        ('constant', 0.5, 0.5),
        (0.3, 0.3, 0.3),
    ],
)
def test_beta_schedules(schedule, quarter, half):
    assert beta(schedule, 3, 12) == pytest.approx(quarter)
    assert beta(schedule, 6, 12) == pytest.approx(half)


def test_the_released_codes_schedule_is_the_papers_squared():
    for epoch in range(13):
        assert beta('half_cosine', epoch, 12) == pytest.approx(beta('cosine', epoch, 12) ** 2, abs=1e-12)


@pytest.mark.parametrize('schedule', ['cosine', 'half_cosine', 'linear', 'sqrt', 'quadratic'])
def test_beta_falls_from_one_to_zero(schedule):
    values = [beta(schedule, epoch, 10) for epoch in range(11)]
    assert values[0] == 1
    assert values[-1] == pytest.approx(0, abs=1e-12)
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('cosin', 0, 1), "unknown beta schedule 'cosin': did you mean 'cosine'"),
        ((1.5, 0, 1), 'from 0 to 1'),
        (('cosine', 11, 10), 'epoch must be'),
    ],
)
def test_beta_mistakes(arguments, message):
    with pytest.raises(MmacsError, match=message):
        beta(*arguments)


def test_a_small_reducible_error_is_not_the_noise_of_two_large_ones():
    error = 0.5 + torch.rand(1000, generator=torch.Generator().manual_seed(0))
    teachers = error - 1e-3
    exact, found = (round_scores(reducible_error(error * noise, teachers)) for noise in (1, 1 + 2e-7))
    torch.testing.assert_close(exact, torch.full((1000,), 1e-3), rtol=0, atol=2.0**-13)
    assert (found == exact).float().mean() > 0.95


def test_rank_normalisation_is_invariant_to_scale_and_shares_ties():
    scores = np.array([3.0, -1.0, 3.0, 10.0])
    assert normalise(scores, 'rank').tolist() == [0.5, 0.125, 0.5, 0.875]
    assert normalise(1e6 * scores + 7, 'rank').tolist() == [0.5, 0.125, 0.5, 0.875]
    assert normalise(scores, 'minmax')[3] == 1
    assert normalise(np.ones(3), 'minmax').tolist() == [0, 0, 0]
    assert normalise(np.ones(3), 'rank').tolist() == [0.5] * 3


def test_groups_are_brought_to_scale_among_themselves():
    scores, groups = np.array([100.0, 1.0, 200.0, 2.0]), np.array([7, 3, 7, 3])
    assert normalise(scores, 'rank', groups).tolist() == [0.25, 0.25, 0.75, 0.75]
    assert normalise(scores, 'minmax', groups).tolist() == [0, 0, 1, 1]
    assert normalise(scores, 'none', groups).tolist() == scores.tolist()


def test_strata_of_counts_are_of_like_size_and_keep_equal_counts_together():
    counts = np.random.default_rng(0).geometric(0.2, 800)
    strata = count_strata(counts)
    assert 5 <= strata.max() + 1 <= 8
    assert all(len(np.unique(strata[counts == count])) == 1 for count in np.unique(counts))
    order = np.argsort(counts, kind='stable')
    assert (np.diff(strata[order]) >= 0).all()
    assert count_strata(counts[:40]).max() == 0  # too few images for strata


def test_stratified_ranks_say_nothing_of_the_number_of_objects():
    rng = np.random.default_rng(0)
    counts = rng.geometric(0.2, 2000)
    scores = np.log(counts) + 0.3 * rng.standard_normal(2000)  # a score that follows the count
    assert spearmanr(scores, counts)[0] > 0.8
    ranks = normalise(scores, 'rank', count_strata(counts))
    assert abs(spearmanr(ranks, counts)[0]) < 0.1
