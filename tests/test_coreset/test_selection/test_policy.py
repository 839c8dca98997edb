import numpy as np
import pytest
from scipy.sparse import csr_matrix

from mmacs.coreset.selection.constraints import Constraints
from mmacs.coreset.selection.policy import Policy
from mmacs.coreset.selection.selectors import ClassBalanced, GumbelTopK, TopK
from mmacs.coreset.state import Ledger
from mmacs.utils.errors import MmacsError

POSITIONS = np.array([0, 1, 2, 3, 0, 1, 2, 3])  # four images, each behind two indices
IMPORTANCE = np.array([0.1, 0.9, 0.5, 0.3])


def ledger(**scores):
    found = Ledger(4, list(scores) or ['evs'])
    found.scores.update({name: np.asarray(values, dtype=np.float32) for name, values in scores.items()})
    found.round = 0
    return found


def choose(policy, size, own=None, importance=IMPORTANCE, seed=0, labels=None):
    found = policy.choose(importance, size, np.random.default_rng(seed), own or ledger(), POSITIONS, labels)
    return found.indices.tolist()


def test_all_indices_of_an_image_have_its_importance():
    policy = Policy(TopK(), Constraints())
    assert choose(policy, 2) == [1, 5]
    assert choose(policy, 3) == [1, 2, 5]
    assert choose(policy, 8) == list(range(8))


def test_trimmed_images_are_left_out_behind_all_of_their_indices():
    own = ledger(teacher_error=[0.1, 1.4, 0.2, 0.3], ds=[0, 0, 0, 0])
    policy = Policy(TopK(), Constraints(), trim=0.25)
    assert policy.excluded(own).tolist() == [False, True, False, False]
    assert policy.suspicion(own).argmax() == 1
    assert choose(policy, 2, own) == [2, 6]
    with pytest.raises(MmacsError, match='6 of 8 images are left after trimming'):
        choose(policy, 7, own)
    untrimmed = Policy(TopK(), Constraints())
    assert untrimmed.suspicion(own) is None and untrimmed.excluded(own) is None


def test_overdue_images_are_chosen_behind_all_of_their_indices():
    own = ledger()
    own.trained_at[:] = [0, 3, 3, 3]
    own.round = 4
    assert choose(Policy(TopK(), Constraints(max_gap=4)), 3, own) == [0, 1, 4]


def test_labels_are_those_of_the_indices():
    labels = csr_matrix(np.eye(2, dtype=bool)[[0, 1, 1, 0]])
    assert choose(Policy(ClassBalanced(), Constraints()), 4, labels=labels) == [1, 3, 5, 7]
    assert choose(Policy(TopK(), Constraints(class_floor=1)), 2, labels=labels) == [1, 3]


def test_what_a_policy_asks_for_and_when_it_draws():
    plain, floored = Policy(TopK(), Constraints()), Policy(TopK(), Constraints(class_floor=1))
    assert not plain.redraw and not plain.needs_labels and floored.needs_labels
    assert Policy(ClassBalanced(), Constraints()).needs_labels
    assert Policy(TopK(), Constraints(random_share=0.1)).redraw and Policy(GumbelTopK(), Constraints()).redraw


@pytest.mark.parametrize('trim', [-0.1, 1, 1.0, True, '0.1', None, float('nan')])
def test_a_trim_out_of_range(trim):
    with pytest.raises(MmacsError, match='trim must be a share of the images, at least 0 and below 1'):
        Policy(TopK(), Constraints(), trim)
