from itertools import permutations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from mmacs.coreset.selection.selectors import (
    ClassBalanced,
    GumbelTopK,
    Moderate,
    SoftPruning,
    Stratified,
    Sweep,
    Tiers,
    TopK,
    coreset_size,
    digest,
    top_k,
)
from mmacs.coreset.selection.selectors.class_balanced import class_groups
from mmacs.coreset.selection.selectors.gumbel_top_k import inclusion_probabilities
from mmacs.coreset.selection.selectors.quotas import even_quotas, floored_quotas, members, proportional_quotas
from mmacs.coreset.selection.selectors.soft_pruning import soft_threshold
from mmacs.coreset.selection.selectors.stratified import equal_width_strata
from mmacs.coreset.selection.selectors.systematic import interval_lengths, systematic_sample
from mmacs.coreset.selection.selectors.tiers import scaled_rates
from mmacs.registry import SELECTORS
from mmacs.utils.errors import MmacsError

N = 60
SCORES = np.random.default_rng(1).random(N) ** 2
CLASSES = np.random.default_rng(2).integers(4, size=N)
DRAWN = [
    dict(type='mmacs.GumbelTopK', temperature=0.3),
    dict(type='mmacs.Random'),
    dict(type='mmacs.SoftPruning'),
    dict(type='mmacs.Tiers'),
    dict(type='mmacs.ClassBalanced', selector=dict(type='mmacs.Tiers')),
]
WITH_PROBABILITIES = [*DRAWN, dict(type='mmacs.Stratified', bins=5)]
SWEPT = [dict(type='mmacs.Sweep'), dict(type='mmacs.ClassBalanced', selector=dict(type='mmacs.Sweep', floor=0.2))]
FIXED = [dict(type='mmacs.TopK'), dict(type='mmacs.Moderate'), dict(type='mmacs.ClassBalanced')]


def one_hot(classes, num_classes=4):
    ones = np.ones(len(classes), dtype=bool)
    return csr_matrix((ones, classes, np.arange(len(classes) + 1)), shape=(len(classes), num_classes))


def select(config, scores=SCORES, size=20, seed=0, classes=CLASSES):
    return SELECTORS.build(config).select(scores, size, np.random.default_rng(seed), one_hot(classes))


def name_of(config):
    return config['type'].removeprefix('mmacs.')


# -------------------------------------------------------------------- size and digest
@pytest.mark.parametrize('fraction', [0, -0.1, 1.01, float('nan'), True, '0.5'])
def test_fraction_out_of_range(fraction):
    with pytest.raises(MmacsError, match='fraction must be above 0 and at most 1'):
        coreset_size(fraction, 10)


def test_size_is_rounded_and_never_zero():
    assert [coreset_size(fraction, 10) for fraction in (0.26, 0.01, 1)] == [3, 1, 10]


def test_digest_tells_selections_apart_whatever_the_integer_type():
    assert digest(np.array([1, 2], dtype=np.int32)) == digest(np.array([1, 2], dtype=np.int64))
    assert digest(np.array([1, 2])) != digest(np.array([1, 3]))


# -------------------------------------------------------------------- all selectors
@pytest.mark.parametrize('config', [*WITH_PROBABILITIES, *SWEPT, *FIXED], ids=name_of)
@pytest.mark.parametrize('size', [0, 1, 17, 37, N - 1, N])
@pytest.mark.parametrize('scores', [SCORES, np.full(N, 0.1), np.repeat([0.0, 1.0], N // 2)], ids=['any', 'one', 'two'])
def test_size_is_exact(config, size, scores):
    indices, probabilities = select(config, scores, size)
    assert indices.dtype == np.int64 and len(indices) == size
    assert (np.diff(indices) > 0).all() and (indices >= 0).all() and (indices < N).all()
    assert (probabilities is not None) == (config in WITH_PROBABILITIES)
    if probabilities is not None:
        assert probabilities.shape == (size,) and (probabilities > 0).all() and (probabilities <= 1).all()
        assert size < N or probabilities == pytest.approx(1)


@pytest.mark.parametrize('config', WITH_PROBABILITIES, ids=name_of)
def test_a_draw_follows_from_the_seed_alone(config):
    np.random.seed(0)
    first = select(config)
    np.random.seed(1)
    assert all(np.array_equal(a, b) for a, b in zip(first, select(config)))
    assert digest(first.indices) != digest(select(config, seed=1).indices)


@pytest.mark.parametrize('config', FIXED, ids=name_of)
def test_the_order_of_the_data_does_not_matter(config):
    order = np.random.default_rng(3).permutation(N)
    before, after = select(config), select(config, SCORES[order], classes=CLASSES[order])
    assert sorted(order[after.indices]) == before.indices.tolist()


def test_which_selectors_draw_anew_in_each_epoch():
    assert all(SELECTORS.build(config).redraw for config in [*DRAWN, *SWEPT])
    assert not any(SELECTORS.build(config).redraw for config in [*FIXED, dict(type='mmacs.Stratified')])


@pytest.mark.parametrize('config', WITH_PROBABILITIES, ids=name_of)
def test_sums_weighted_by_inverse_probabilities_are_unbiased(config):
    selector, labels, rng = SELECTORS.build(config), one_hot(CLASSES), np.random.default_rng(0)
    values = np.stack([np.ones(N), SCORES, np.random.default_rng(4).normal(size=N)])
    estimates = []
    for _ in range(1500):
        indices, probabilities = selector.select(SCORES, 20, rng, labels)
        estimates.append((values[:, indices] / probabilities).sum(1))
    error = np.mean(estimates, 0) - values.sum(1)
    assert (np.abs(error) <= 4 * np.std(estimates, 0) / 1500**0.5 + 1e-6).all()


# -------------------------------------------------------------------- ties
TIED = np.repeat([2.0, 1.0, 0.0], 20)  # in file order


@pytest.mark.parametrize('config', [*WITH_PROBABILITIES, *SWEPT, *FIXED], ids=name_of)
@pytest.mark.parametrize('scores', [TIED, np.zeros(N), TIED[::-1]], ids=['falling', 'equal', 'rising'])
def test_of_equal_scores_all_have_the_same_chance_wherever_they_stand(config, scores):
    """A choice that follows the order of the file would take the first, or the last, of equal images more often."""
    selector, draws = SELECTORS.build(config), 300
    labels = one_hot(np.arange(N) % 4)
    counts = np.zeros(N)
    for seed in range(draws):
        counts[selector.select(scores, 30, np.random.default_rng(seed), labels).indices] += 1
    for score in np.unique(scores):
        own = np.flatnonzero(scores == score)
        expected = counts[own].mean()
        assert np.abs(counts[own] - expected).max() <= 4.5 * np.sqrt(expected * (1 - expected / draws)) + 1e-9
        first, last = counts[own[: len(own) // 2]].mean(), counts[own[len(own) // 2 :]].mean()
        assert abs(first - last) <= 4.5 * np.sqrt(expected * (1 - expected / draws) * 4 / len(own)) + 1e-9


@pytest.mark.parametrize('quotas', [proportional_quotas, even_quotas])
def test_of_equal_groups_none_is_favoured(quotas):
    rng = np.random.default_rng(0)
    total = sum(quotas(np.full(4, 10), 30, rng) for _ in range(400))
    assert np.abs(total - 3000).max() < 4 * np.sqrt(400 * 0.25)


# -------------------------------------------------------------------- top-k and classes
@pytest.mark.parametrize('size', [0, 1, 2, 50, 99, 100])
def test_top_k_takes_the_highest_scores_in_order_of_index(size):
    scores = np.random.default_rng(0).integers(-3, 3, 100).astype(float)
    chosen = top_k(scores, size)
    assert chosen.tolist() == sorted(set(chosen)) and len(chosen) == size
    assert sorted(scores[chosen]) == sorted(scores)[100 - size :]
    assert np.array_equal(chosen, top_k(scores, size))  # without a source of chance it is always the same


def test_quotas_of_many_draws_are_the_shares_those_below_one_image_too():
    rng = np.random.default_rng(0)
    counts = np.array([1, 4, 0, 15, 180])
    mean = np.mean([proportional_quotas(counts, 20, rng) for _ in range(2000)], axis=0)
    np.testing.assert_allclose(mean, counts / 10, atol=0.05)


def test_floors_come_first_and_the_rest_is_shared():
    rng = np.random.default_rng(0)
    for _ in range(200):
        counts = rng.integers(0, 50, rng.integers(1, 12))
        size, floors = int(rng.integers(0, counts.sum() + 1)), np.minimum(counts, rng.integers(0, 9))
        quotas, chances = floored_quotas(counts, floors, size, rng)
        assert quotas.sum() == size and (quotas <= counts).all()
        assert (quotas >= floors).all() or size < floors.sum()
        assert ((chances > 0) | (quotas == 0)).all() and (chances <= 1).all()
    counts = np.array([5, 100, 40])
    assert floored_quotas(counts, counts, 60, rng)[0].tolist() == even_quotas(counts, 60, rng).tolist()


@pytest.mark.parametrize('inner', [dict(type='Random'), dict(type='GumbelTopK', temperature=0.5)])
@pytest.mark.parametrize('floor', [0, 2])
def test_weights_by_probabilities_of_a_class_balanced_draw_are_unbiased_for_rare_classes_too(inner, floor):
    classes, scores = np.repeat([0, 1, 2, 3], [2, 3, 15, 40]), np.random.default_rng(3).random(60)
    selector, labels, draws = ClassBalanced(inner, floor), one_hot(classes), 1000
    rng, found = np.random.default_rng(4), np.zeros((draws, 4))
    for row in found:
        chosen = selector.select(scores, 13, rng, labels)
        np.add.at(row, classes[chosen.indices], 1 / chosen.probabilities)
    error = found.std(0) / np.sqrt(draws)
    assert (np.abs(found.mean(0) - [2, 3, 15, 40]) < 5 * error + 1e-9).all()


def test_proportional_quotas_are_shares_rounded_to_the_exact_total():
    rng = np.random.default_rng(0)
    for _ in range(200):
        counts = rng.integers(0, 50, rng.integers(1, 12))
        size = int(rng.integers(0, counts.sum() + 1))
        quotas = proportional_quotas(counts, size, rng)
        assert quotas.sum() == size and (quotas <= counts).all()
        assert (np.abs(quotas - size * counts / max(1, counts.sum())) < 1).all()


def test_members_are_split_by_group():
    groups = np.array([2, 0, 2, 3], dtype=np.uint8)
    assert [own.tolist() for own in members(groups, np.bincount(groups))] == [[1], [], [0, 2], [3]]


def test_class_balance_takes_the_best_of_each_class():
    chosen = select(dict(type='mmacs.ClassBalanced')).indices
    counts, quotas = np.bincount(CLASSES), np.bincount(CLASSES[chosen], minlength=4)
    assert (np.abs(quotas - 20 * counts / N) < 1).all()
    for label, quota in enumerate(quotas):
        own = np.flatnonzero(label == CLASSES)
        assert np.intersect1d(chosen, own).tolist() == own[top_k(SCORES[own], quota)].tolist()


def test_class_balance_keeps_the_probabilities_within_classes():
    indices, probabilities = select(dict(type='ClassBalanced', selector=dict(type='Random')))
    quotas = np.bincount(CLASSES[indices], minlength=4)
    np.testing.assert_allclose(probabilities, (quotas / np.bincount(CLASSES))[CLASSES[indices]])


def test_class_balance_needs_classes():
    with pytest.raises(MmacsError, match='ClassBalanced needs the classes of the images'):
        ClassBalanced().select(np.arange(2.0), 1, np.random.default_rng())


def test_an_image_of_several_classes_counts_for_the_rarest_that_it_holds():
    rng = np.random.default_rng(0)
    for _ in range(100):
        held = rng.random((rng.integers(1, 30), rng.integers(0, 6))) < rng.random()
        images = held.sum(0)
        groups = class_groups(csr_matrix(held))
        for row, group in zip(held, groups):
            own = np.flatnonzero(row)
            assert group == (own[np.argmin(images[own])] if len(own) else held.shape[1])


# -------------------------------------------------------------------- strata
def test_even_quotas_serve_the_smallest_first():
    rng = np.random.default_rng(0)
    assert even_quotas(np.array([5, 100, 0, 50]), 60, rng).tolist() == [5, 28, 0, 27]
    for _ in range(200):
        counts = rng.integers(0, 50, rng.integers(1, 12))
        size = int(rng.integers(0, counts.sum() + 1))
        quotas = even_quotas(counts, size, rng)
        assert quotas.sum() == size and (quotas <= counts).all()
        short = quotas < counts  # groups that could give more have the same, but for rounding, and no group has more
        assert not short.any() or quotas.max() - quotas[short].min() <= 1


def test_strata_have_equal_width_and_hold_the_maximum():
    assert equal_width_strata(np.array([0.0, 0.9, 1.0, 2.5, 4.0]), 4).tolist() == [0, 0, 1, 2, 3]
    assert equal_width_strata(np.full(3, 0.1), 4).tolist() == [0, 0, 0]


def test_strata_cover_rare_scores():
    scores = np.concatenate([np.linspace(0, 0.1, 90), np.linspace(0.9, 1, 10)])
    indices, probabilities = Stratified(bins=2).select(scores, 20, np.random.default_rng(0))
    assert (indices >= 90).sum() == 10
    assert np.array_equal(probabilities, np.where(indices >= 90, 1, 10 / 90))


def test_hard_cut_drops_the_highest_scores():
    chosen = Stratified(hard_cut=0.25, bins=5).select(SCORES, 45, np.random.default_rng(0)).indices
    assert np.array_equal(chosen, top_k(-SCORES, 45))
    with pytest.raises(MmacsError, match='hard_cut=0.25 leaves 45 of 60 images, fewer than the 46'):
        Stratified(hard_cut=0.25).select(SCORES, 46, np.random.default_rng(0))


# -------------------------------------------------------------------- Gumbel
def test_gumbel_draws_one_after_the_other_by_their_odds():
    scores, size, draws = np.array([0.0, 0.5, 1.0, 1.5]), 2, 4000
    expected = np.zeros(4)
    for first, second in permutations(range(4), size):
        odds = np.exp(scores / 0.5)
        expected[[first, second]] += odds[first] / odds.sum() * odds[second] / (odds.sum() - odds[first])
    rng, selector = np.random.default_rng(0), GumbelTopK(0.5)
    counts = np.bincount(np.concatenate([selector.select(scores, size, rng).indices for _ in range(draws)]))
    assert (np.abs(counts / draws - expected) < 4 * np.sqrt(expected * (1 - expected) / draws)).all()


def test_gumbel_probabilities_are_those_of_passing_the_threshold():
    logits = np.array([-1.0, 0.0, 2.0])
    assert inclusion_probabilities(logits, 0.5) == pytest.approx(1 - np.exp(-np.exp(logits - 0.5)))
    assert inclusion_probabilities(logits, -np.inf).tolist() == [1, 1, 1]
    assert inclusion_probabilities(np.array([1e5, -37.0]), 0.0) == pytest.approx([1, np.exp(-37)], rel=1e-9)


def test_gumbel_without_much_noise_is_top_k():
    assert np.array_equal(select(dict(type='GumbelTopK', temperature=1e-7)).indices, top_k(SCORES, 20))


# -------------------------------------------------------------------- moderate, soft pruning, tiers
def test_moderate_takes_what_is_nearest_to_the_median():
    scores, rng = np.array([90.0, 4.0, 6.5, 5.0, 0.0]), np.random.default_rng(0)
    for size, expected in ((1, [3]), (2, [1, 3]), (4, [1, 2, 3, 4])):
        assert Moderate().select(scores, size, rng).indices.tolist() == expected


def test_soft_pruning_prunes_below_the_mean_only():
    high = np.flatnonzero(SCORES.mean() <= SCORES)
    size = len(high) + 7
    indices, probabilities = SoftPruning().select(SCORES, size, np.random.default_rng(0))
    is_high = np.isin(indices, high)
    assert is_high.sum() == len(high)
    assert np.array_equal(probabilities, np.where(is_high, 1, 7 / (N - len(high))))


def test_the_soft_threshold_rises_until_the_budget_suffices():
    scores = np.array([0.0, 0.0, 6.0, 6.0, 8.0])  # means: 4, of those above 20 / 3, of those above 8
    assert [soft_threshold(scores, size) for size in (5, 4, 3)] == [-np.inf, 4, 4]
    assert soft_threshold(scores, 2) == pytest.approx(20 / 3)
    assert soft_threshold(scores, 0) == soft_threshold(np.ones(3), 2) == np.inf


def test_rates_are_scaled_to_the_budget_and_capped():
    rates, counts = np.array([1.0, 0.4, 0.02]), np.array([10, 20, 100])
    assert scaled_rates(rates, counts, 10) == pytest.approx(rates * 10 / 20)
    capped = scaled_rates(rates, counts, 26)
    assert capped == pytest.approx([1, 0.4 * 1.6, 0.02 * 1.6])
    for size in range(131):
        probabilities = scaled_rates(rates, counts, size)
        assert probabilities @ counts == pytest.approx(size) and probabilities.max() <= 1
    assert scaled_rates(rates, np.array([0, 5, 0]), 5).tolist() == [0, 1, 0]


def test_tiers_are_split_at_the_thresholds():
    scores = np.array([0.5, 0.49, 0.11, 0.1])
    indices, probabilities = Tiers(0.5, 0.1, (0.4, 0.3, 0.1)).select(
        np.repeat(scores, 10), 40, np.random.default_rng(0)
    )
    assert len(indices) == 40
    indices, probabilities = Tiers(0.5, 0.1, (0.4, 0.3, 0.1)).select(
        np.repeat(scores, 10), 11, np.random.default_rng(0)
    )
    assert probabilities == pytest.approx(np.array([0.4, 0.3, 0.3, 0.1])[indices // 10])


def test_systematic_samples_include_each_image_with_its_probability():
    probabilities = np.array([0.05, 0.95, 1.0, 0.0, 0.3, 0.7, 1 / 3, 2 / 3])
    rng = np.random.default_rng(0)
    samples = [systematic_sample(probabilities, rng) for _ in range(3000)]
    assert {len(sample) for sample in samples} == {4}
    counts = np.bincount(np.concatenate(samples), minlength=8)
    assert (np.abs(counts / 3000 - probabilities) <= 4 * np.sqrt(probabilities * (1 - probabilities) / 3000)).all()


def test_systematic_samples_are_laid_out_in_random_order():
    rng = np.random.default_rng(0)
    assert len({tuple(systematic_sample(np.full(4, 0.5), rng)) for _ in range(100)}) == 6


def test_systematic_samples_choose_no_image_of_probability_zero():
    class First:
        integers, permutation = staticmethod(lambda high: 0), staticmethod(np.arange)

    assert systematic_sample(np.array([0.0, 1.0, 0.0, 0.5, 0.5]), First()).tolist() == [1, 3]


@pytest.mark.parametrize('parts', [3, 6, 7, 100])
def test_intervals_add_up_exactly(parts):
    probabilities = np.append(np.full(parts, 1 / parts), [0.0, 1.0])
    lengths = interval_lengths(probabilities, 2)
    assert lengths.sum() == 2 * 2**32
    assert (np.abs(lengths - probabilities * 2**32) < 1.5).all() and lengths[-2:].tolist() == [0, 2**32]


def test_systematic_samples_have_the_exact_size_whatever_is_rounded():
    rng = np.random.default_rng(0)
    for num in (1, 10, 1000, 30000):
        probabilities = rng.random(num) ** 5
        probabilities = np.append(probabilities, [1 - 1e-12, 1e-12, 1.0])
        probabilities = np.append(probabilities, np.ceil(probabilities.sum()) - probabilities.sum())
        sample = systematic_sample(probabilities, rng)
        assert len(sample) == round(probabilities.sum()) and (np.diff(sample) > 0).all()


@pytest.mark.parametrize('probabilities', [[0.5, 0.6], [1.5, 0.5], [-0.5, 0.5]])
def test_systematic_samples_need_probabilities_of_a_whole_sum(probabilities):
    with pytest.raises(ValueError, match='must lie in'):
        systematic_sample(np.array(probabilities), np.random.default_rng())


# -------------------------------------------------------------------- a sweep
def sweep(config, size, epochs, scores=SCORES, shown=None, classes=CLASSES):
    """Coresets of some epochs, shape (epochs, size), and what the last pass has shown."""
    selector, labels, rng = SELECTORS.build(config), one_hot(classes), np.random.default_rng(5)
    shown, drawn = np.zeros(len(scores), dtype=bool) if shown is None else shown, []
    for _ in range(epochs):
        drawn.append(selector.select(scores, size, rng, labels, shown).indices)
        shown = selector.remember(scores, np.isin(np.arange(len(scores)), drawn[-1]), shown, labels)
    return np.array(drawn), shown


@pytest.mark.parametrize('size', [1, 7, 13, 20, 39])
def test_a_sweep_shows_each_image_above_the_floor_once_before_any_twice(size):
    above = np.flatnonzero(SCORES > 0.1)
    assert 39 < len(above) < N
    drawn, _ = sweep(dict(type='mmacs.Sweep', floor=0.1), size, 3 * len(above))
    assert (np.bincount(drawn.ravel(), minlength=N)[above] == 3 * size).all()
    for epochs in range(1, len(drawn)):  # after any number of epochs none was shown two times more than another
        assert np.ptp(np.bincount(drawn[:epochs].ravel(), minlength=N)[above]) <= 1


def test_passes_differ():
    drawn, _ = sweep(dict(type='mmacs.Sweep', floor=-1.0), 20, 9)
    assert len(np.unique(drawn, axis=0)) == 9


def test_a_sweep_within_classes_keeps_their_shares():
    above = SCORES > 0.2
    drawn, _ = sweep(dict(type='mmacs.ClassBalanced', selector=dict(type='mmacs.Sweep', floor=0.2)), 12, 60)
    counts = np.bincount(drawn.ravel(), minlength=N)
    for label in range(4):
        own = label == CLASSES
        assert abs(counts[own].sum() / 60 - 12 * own.mean()) < 1
        assert np.ptp(counts[own & above]) <= 1 and not counts[own & ~above].any()


def test_images_that_rise_join_the_pass_and_those_that_fall_leave_it():
    scores = np.repeat([1.0, 0.0], 20)
    config, few = dict(type='mmacs.Sweep', floor=0.5), np.zeros(40, dtype=int)
    first, shown = sweep(config, 10, 1, scores, classes=few)
    waiting = np.setdiff1d(np.arange(20), first)
    scores[waiting[:4]], scores[20:24] = 0.0, 1.0  # four fall that were not shown yet, four rise
    second, shown = sweep(config, 10, 1, scores, shown, few)
    assert second[0].tolist() == sorted([*waiting[4:], *range(20, 24)])
    assert not shown.any()  # the pass ends with this epoch
    scores[first[0][:5]] = 0.0
    third, shown = sweep(config, 10, 1, scores, shown, few)
    scores[first[0][:5]] = 1.0
    fourth, _ = sweep(config, 10, 1, scores, shown, few)
    assert not np.intersect1d(third, fourth).size and set(first[0][:5]) <= set(fourth[0])


def test_where_few_images_are_above_the_floor_chance_fills_the_budget_up():
    scores = np.where(np.arange(N) < 8, 1.0, 0.0)
    drawn, _ = sweep(dict(type='mmacs.Sweep'), 20, 30, scores)
    counts = np.bincount(drawn.ravel(), minlength=N)
    assert (counts[:8] == 30).all() and counts[8:].max() < 20 and counts[8:].min() > 0
    chosen = np.isin(np.arange(N), drawn[0])
    assert Sweep().facts(scores, chosen) == {'above_floor': 8, 'filled_up': 12}
    assert Sweep(-1.0).facts(scores, chosen) == {'above_floor': N}


# -------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (dict(type='mmacs.TopKK'), "did you mean 'TopK'"),
        (dict(temperature=1), 'must be a dict with a type'),
        ('mmacs.TopK', 'must be a dict with a type'),
        (dict(type='mmacs.GumbelTopK', temprature=1), "did you mean 'temperature'"),
        (dict(type='mmacs.TopK', k=1), 'TopK has no arguments'),
        (dict(type='mmacs.GumbelTopK', temperature=0), 'without noise use mmacs.TopK'),
        (dict(type='mmacs.GumbelTopK', temperature=float('inf')), 'temperature must be positive'),
        (dict(type='mmacs.Stratified', hard_cut=1), 'hard_cut must be'),
        (dict(type='mmacs.Stratified', bins=0), 'bins must be'),
        (dict(type='mmacs.Stratified', bins=2.0), 'bins must be'),
        (dict(type='mmacs.Tiers', hard=0.1, easy=0.1), 'easy below hard'),
        (dict(type='mmacs.Tiers', rates=(1, 0.4)), 'rates must be three numbers'),
        (dict(type='mmacs.Tiers', rates=(1, 0.4, 0)), 'rates must be three numbers'),
        (dict(type='mmacs.Tiers', rates=1), 'rates must be three numbers'),
        (dict(type='mmacs.Sweep', floor='low'), 'floor must be a number in units of the score'),
        (dict(type='mmacs.ClassBalanced', selector=dict(type='mmacs.Nothing')), 'unknown selector'),
    ],
)
def test_mistakes_in_a_config_are_named(config, message):
    with pytest.raises(MmacsError, match=message):
        SELECTORS.build(config)


def test_class_balance_asks_for_labels():
    assert ClassBalanced().needs_labels and not TopK().needs_labels
