import subprocess
import sys

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from mmacs.coreset.selection.constraints import Constraints, longest_away
from mmacs.coreset.selection.selectors import ClassBalanced, GumbelTopK, Random, Stratified, TopK, top_k
from mmacs.utils.errors import MmacsError
from tests.conftest import REPO

N = 40
SCORES = np.random.default_rng(0).random(N)


def choose(constraints, size=10, selector=None, scores=SCORES, seed=0, **facts):
    return constraints.choose(selector or TopK(), scores, size, np.random.default_rng(seed), **facts)


def labels_of(*classes, num_images=N):
    """Labels of images, from the images of each class."""
    labels = np.zeros((num_images, len(classes)), dtype=bool)
    for label, own in enumerate(classes):
        labels[own, label] = True
    return csr_matrix(labels)


class Unused(TopK):
    def select(self, *_):
        raise AssertionError('nothing was left to choose')


# -------------------------------------------------------------------- no constraints
@pytest.mark.parametrize(
    'selector', [TopK(), GumbelTopK(), Random(), Stratified(bins=4)], ids=lambda s: type(s).__name__
)
@pytest.mark.parametrize('size', [0, 10, N])
def test_without_floors_the_selector_chooses(selector, size):
    expected = selector.select(SCORES, size, np.random.default_rng(0))
    given = choose(Constraints(), size, selector, gaps=np.full(N, 99), labels=labels_of([0]))
    assert np.array_equal(given.indices, expected.indices)
    assert np.array_equal(given.probabilities, expected.probabilities)


def test_probabilities_are_unknown_under_a_floor():
    facts = dict(selector=Random(), gaps=np.zeros(N), labels=labels_of([0]))
    for constraints in (Constraints(class_floor=1), Constraints(max_gap=4), Constraints(random_share=0.1)):
        assert choose(constraints, **facts).probabilities is None


# -------------------------------------------------------------------- excluded
@pytest.mark.parametrize(
    'constraints', [Constraints(), Constraints(class_floor=2), Constraints(max_gap=9), Constraints(random_share=0.5)]
)
def test_excluded_images_are_never_chosen(constraints):
    excluded = np.zeros(N, dtype=bool)
    excluded[::2] = True
    for size in (10, 20):
        chosen = choose(
            constraints, size, gaps=np.full(N, 99), excluded=excluded, labels=labels_of([0, 1, 2], [4, 6])
        ).indices
        assert len(np.unique(chosen)) == size and not excluded[chosen].any()
    with pytest.raises(MmacsError, match='20 of 40 images are left after trimming, fewer than the 21'):
        choose(constraints, 21, gaps=np.full(N, 99), excluded=excluded, labels=labels_of([0]))


def test_the_selector_sees_the_other_images_only():
    excluded = np.arange(N) < 20
    chosen = choose(Constraints(), 8, excluded=excluded)
    assert np.array_equal(chosen.indices, 20 + top_k(SCORES[20:], 8))
    drawn = choose(Constraints(), 8, Random(), excluded=excluded)
    assert drawn.probabilities.tolist() == [8 / 20] * 8
    labels = labels_of(range(0, 35), range(35, N))
    balanced = choose(Constraints(), 8, ClassBalanced(), excluded=excluded, labels=labels).indices
    assert (balanced < 35).sum() == 6


# -------------------------------------------------------------------- max_gap
def test_overdue_images_are_chosen():
    gaps = np.zeros(N, dtype=int)
    lowest = np.argsort(SCORES)[:3]
    gaps[lowest] = [4, 5, 6]
    chosen = choose(Constraints(max_gap=5), gaps=gaps).indices
    assert sorted(np.concatenate([lowest[1:], top_k(SCORES, 8)])) == chosen.tolist()


def test_of_too_many_overdue_images_the_longest_away_come_first():
    scores = np.array([1.0, 2.0, 3.0, 4.0, 0.0, 9.0])
    gaps = np.array([7, 7, 7, 7, 8, 2])
    for size, expected in enumerate([[4], [3, 4], [2, 3, 4], [1, 2, 3, 4], [0, 1, 2, 3, 4]], start=1):
        chosen = choose(Constraints(max_gap=6), size, Unused(), scores, gaps=gaps)
        assert chosen.indices.tolist() == expected


def test_the_order_of_overdue_images():
    rng = np.random.default_rng(0)
    scores, gaps = rng.integers(5, size=200).astype(float), rng.integers(5, size=200)
    due = np.sort(rng.choice(200, 90, replace=False))
    for limit in (1, 40, 89, 90, 91):
        expected = due[np.lexsort([-scores[due], -gaps[due]])][:limit]
        found = longest_away(due, scores, gaps, limit, rng)
        assert len(np.unique(found)) == len(expected) and np.isin(found, due).all()
        assert sorted(zip(gaps[found], scores[found])) == sorted(zip(gaps[expected], scores[expected]))


def test_no_image_stays_away_for_twice_the_maximum():
    last, worst = np.full(N, 0), 0
    for number in range(60):
        gaps = number - last
        worst = max(worst, gaps.max())
        last[choose(Constraints(max_gap=4), gaps=gaps).indices] = number
    assert 4 <= worst < 8


def test_a_gap_that_cannot_be_met():
    with pytest.raises(MmacsError, match='max_gap of at least 4 or a fraction of at least 0.35'):
        choose(Constraints(max_gap=3), gaps=np.zeros(N))
    choose(Constraints(max_gap=3), 14, gaps=np.zeros(N))
    choose(Constraints(max_gap=3), gaps=np.zeros(N), excluded=np.arange(N) < 10)


def test_draws_of_every_epoch_may_meet_a_gap_that_one_per_round_cannot():
    gaps = np.full(N, 3)
    for constraints, selector in (
        (Constraints(max_gap=3), GumbelTopK()),
        (Constraints(max_gap=3, random_share=0.1), TopK()),
    ):
        left = gaps.copy()
        for seed in range(4):  # epochs of one round
            left[choose(constraints, 10, selector, seed=seed, gaps=left).indices] = 0
        assert not left.any()


# -------------------------------------------------------------------- class_floor
def test_rare_classes_get_their_best_images():
    lowest = np.argsort(SCORES)
    labels = labels_of(range(N), lowest[:5], lowest[3:4])
    chosen = choose(Constraints(class_floor=2), labels=labels).indices
    # the class of one image has all it has; that image counts for the class of five, whose best image joins it
    assert sorted([lowest[3], lowest[4], *top_k(SCORES, 8)]) == chosen.tolist()


def test_images_chosen_as_overdue_count_for_their_class():
    lowest = np.argsort(SCORES)
    gaps = np.zeros(N, dtype=int)
    gaps[lowest[0]] = 9
    chosen = choose(Constraints(class_floor=1, max_gap=9), gaps=gaps, labels=labels_of(lowest[:5])).indices
    assert sorted([lowest[0], *top_k(SCORES, 9)]) == chosen.tolist()


def test_the_rarest_class_comes_first_when_overdue_images_leave_little():
    gaps = np.zeros(N, dtype=int)
    gaps[:9] = 9
    labels = labels_of(range(10, 20), range(20, 25))
    chosen = choose(Constraints(class_floor=6, max_gap=9), gaps=gaps, labels=labels).indices
    assert chosen.tolist() == [*range(9), 20 + SCORES[20:25].argmax()]


def test_a_class_floor_that_cannot_be_met():
    labels = labels_of(range(10), range(10, 20))
    assert (choose(Constraints(class_floor=5), 10, Unused(), labels=labels).indices < 10).sum() == 5
    with pytest.raises(MmacsError, match='class_floor=6 needs 12 images, more than the 10'):
        choose(Constraints(class_floor=6), labels=labels)
    with pytest.raises(MmacsError, match='class_floor needs labels'):
        choose(Constraints(class_floor=1))


# -------------------------------------------------------------------- random_share
def test_a_share_of_the_budget_is_drawn_evenly():
    scores, draws = np.arange(N, dtype=float), 800
    best, counts = np.zeros(draws), np.zeros(N)
    for seed in range(draws):
        chosen = choose(Constraints(random_share=0.4), scores=scores, seed=seed).indices
        counts[chosen] += 1
        best[seed] = np.isin(np.arange(30, N), chosen).sum()
    # six of the ten are the best that the draw of four has left
    assert (counts[-6:] == draws).all() and best.min() >= 6
    evenly = counts[: N - 10] / draws
    assert (np.abs(evenly - 0.1) < 4 * np.sqrt(0.1 * 0.9 / draws)).all()


def test_a_random_share_of_one_leaves_nothing_to_the_selector():
    assert len(choose(Constraints(random_share=1.0), selector=Unused()).indices) == 10


def test_all_floors_together_fill_the_budget_exactly():
    gaps, excluded = np.zeros(N, dtype=int), np.zeros(N, dtype=bool)
    gaps[:3], excluded[[2, 12]] = 9, True
    labels = labels_of(range(10, 14), range(20, N))
    for seed in range(50):
        constraints = Constraints(class_floor=2, max_gap=9, random_share=0.3)
        chosen = choose(constraints, 10, GumbelTopK(), seed=seed, gaps=gaps, labels=labels, excluded=excluded).indices
        assert len(np.unique(chosen)) == 10 and not excluded[chosen].any()
        assert {0, 1} <= set(chosen) and np.isin(chosen, range(10, 14)).sum() >= 2 <= (chosen >= 20).sum()


@pytest.mark.parametrize(
    'constraints', [Constraints(max_gap=9), Constraints(class_floor=2), Constraints(class_floor=3, max_gap=9)]
)
def test_of_equally_due_and_equally_good_images_none_is_favoured(constraints):
    """Forty equal images, ten of each of four classes, the first half of them overdue."""
    gaps, labels = np.repeat([9, 0], 20), labels_of(*(range(first, N, 4) for first in range(4)))
    counts, draws = np.zeros(N), 400
    for seed in range(draws):
        chosen = choose(constraints, 12, scores=np.zeros(N), seed=seed, gaps=gaps, labels=labels).indices
        counts[chosen] += 1
    for own in (counts[:20], counts[20:]) if constraints.max_gap else (counts,):
        assert np.abs(own - own.mean()).max() <= 4.5 * np.sqrt(own.mean() * (1 - own.mean() / draws)) + 1e-9


# -------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    'arguments',
    [
        dict(class_floor=-1),
        dict(class_floor=1.0),
        dict(class_floor=True),
        dict(max_gap=0),
        dict(max_gap=2.5),
        dict(random_share=-0.1),
        dict(random_share=1.1),
        dict(random_share=float('nan')),
        dict(random_share='0.1'),
    ],
)
def test_arguments_out_of_range(arguments):
    with pytest.raises(MmacsError, match=f'{next(iter(arguments))} must be'):
        Constraints(**arguments)


# -------------------------------------------------------------------- scale
SCALE = """
import resource, time
import numpy as np
from scipy.sparse import csr_matrix
from mmacs.coreset.selection.constraints import Constraints
from mmacs.coreset.selection.selectors import ClassBalanced, GumbelTopK, SoftPruning, Stratified, TopK, digest

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

imported, num = peak(), 10_000_000
rng = np.random.default_rng(0)
scores = rng.random(num)
classes = rng.integers(100, size=num, dtype=np.int32)
labels = csr_matrix((np.ones(num, dtype=bool), classes, np.arange(num + 1, dtype=np.int32)), shape=(num, 100))
for selector in (TopK(), GumbelTopK(), SoftPruning(), Stratified(), ClassBalanced()):
    start = time.process_time()
    digest(Constraints().choose(selector, scores, num // 10, rng, labels).indices)
    print(type(selector).__name__, time.process_time() - start, peak() - imported)
"""


@pytest.mark.slow
def test_ten_million_images_take_seconds():
    done = subprocess.run(
        [sys.executable, '-c', SCALE], capture_output=True, text=True, check=True, timeout=300, cwd=REPO
    )
    for name, seconds, megabytes in map(str.split, done.stdout.splitlines()):
        print(f'{name}: {float(seconds):.2f} s of one CPU, {float(megabytes):.0f} MB with the data')
        assert float(seconds) < 5 and float(megabytes) < 1000
    assert name == 'ClassBalanced'
