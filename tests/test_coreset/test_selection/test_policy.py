import numpy as np
import pytest
from scipy.sparse import csr_matrix

from mmacs.coreset.selection.constraints import Constraints
from mmacs.coreset.selection.policy import Policy
from mmacs.coreset.selection.selectors import ClassBalanced, GumbelTopK, TopK
from mmacs.utils.errors import MmacsError

POSITIONS = np.array([0, 1, 2, 3, 0, 1, 2, 3])  # four images, each behind two indices
IMPORTANCE = np.array([0.1, 0.9, 0.5, 0.3])


SCORES = {'teacher_error': np.array([0.1, 1.4, 0.2, 0.3]), 'ds': np.zeros(4)}


def choose(policy, size, gaps=(0, 0, 0, 0), importance=IMPORTANCE, seed=0, labels=None):
    rng = np.random.default_rng(seed)
    found = policy.choose(importance, size, rng, np.asarray(gaps), POSITIONS, labels, policy.excluded(SCORES, rng))
    return found.indices.tolist()


def test_all_indices_of_an_image_have_its_importance():
    policy = Policy(TopK(), Constraints())
    assert choose(policy, 2) == [1, 5]
    assert sorted(POSITIONS[choose(policy, 3)]) == [1, 1, 2]
    assert choose(policy, 8) == list(range(8))


def test_trimmed_images_are_left_out_behind_all_of_their_indices():
    policy = Policy(TopK(), Constraints(trim=0.25))
    assert policy.excluded(SCORES, np.random.default_rng(0)).tolist() == [False, True, False, False]
    assert policy.suspicion(SCORES).argmax() == 1
    assert choose(policy, 2) == [2, 6]
    with pytest.raises(MmacsError, match='6 of 8 images are left after trimming'):
        choose(policy, 7)
    untrimmed = Policy(TopK(), Constraints())
    assert untrimmed.suspicion(SCORES) is None and untrimmed.excluded(SCORES, np.random.default_rng(0)) is None


def test_overdue_images_are_chosen_behind_all_of_their_indices():
    assert choose(Policy(TopK(), Constraints(max_gap=4)), 3, gaps=[4, 1, 1, 1]) in ([0, 1, 4], [0, 4, 5])


def test_labels_are_those_of_the_indices():
    labels = csr_matrix(np.eye(2, dtype=bool)[[0, 1, 1, 0]])
    assert choose(Policy(ClassBalanced(), Constraints()), 4, labels=labels) == [1, 3, 5, 7]
    assert choose(Policy(TopK(), Constraints(class_floor=1)), 2, labels=labels) in ([1, 3], [1, 7], [3, 5], [5, 7])


def test_what_a_policy_asks_for_and_when_it_draws():
    plain, floored = Policy(TopK(), Constraints()), Policy(TopK(), Constraints(class_floor=1))
    assert not plain.redraw and not plain.needs_labels and floored.needs_labels
    assert Policy(ClassBalanced(), Constraints()).needs_labels
    assert Policy(TopK(), Constraints(random_share=0.1)).redraw and Policy(GumbelTopK(), Constraints()).redraw


@pytest.mark.parametrize('trim', [-0.1, 1, 1.0, True, '0.1', None, float('nan')])
def test_a_trim_out_of_range(trim):
    with pytest.raises(MmacsError, match='trim must be a share of the images, at least 0 and below 1'):
        Constraints(trim=trim)


def test_the_trimmed_share_can_be_estimated_and_leaves_the_budget_its_images():
    rng = np.random.default_rng(0)
    errors = np.where(np.arange(1000) < 200, 1.4, 0.1) + 0.05 * rng.random(1000)
    scores = {'teacher_error': errors, 'ds': rng.random(1000)}
    policy = Policy(TopK(), Constraints(trim='auto'))
    assert np.flatnonzero(policy.excluded(scores, rng)).tolist() == list(range(200))
    assert policy.excluded(scores, rng, most=0.1).sum() == 100
    alike = dict(scores, teacher_error=rng.random(1000))
    assert not policy.excluded(alike, rng).any()
    with pytest.raises(MmacsError, match="or 'auto', got 'some'"):
        Constraints(trim='some')
