import io

import numpy as np
import pytest
import torch

from mmacs.coreset.budget.prediction import Plan
from mmacs.coreset.old_checkpoints import upgraded
from mmacs.coreset.selection.selectors import Selection
from mmacs.coreset.state import CoresetState, Progress, scored_columns
from mmacs.utils.errors import MmacsError

NOTHING = np.zeros(10, dtype=bool)
ORDER = np.random.default_rng(0).permutation(10)


def fresh(num_images, columns):
    return CoresetState(num_images, columns, Plan(3))


def scored(ages, columns=('evs',)):
    """A state in the round of the last of these."""
    state = fresh(len(ages), columns)
    state.rows['scored_at'] = ages
    state.round = int(max(ages))
    return state


def test_unscored_images_come_first_however_small_the_share():
    state = scored([2, -1, 0, 1, -1, 0, 2, 1, 0, -1])
    assert state.stalest(0.0, NOTHING, ORDER).tolist() == [1, 4, 9]
    assert state.stalest(0.3, NOTHING, ORDER).tolist() == [1, 4, 9]
    assert state.stalest(0.6, NOTHING, ORDER).tolist() == [1, 2, 4, 5, 8, 9]
    assert len(state.stalest(0.61, NOTHING, ORDER)) == 7  # rounded up
    assert state.stalest(1.0, NOTHING, ORDER).tolist() == list(range(10))


def test_fresh_images_are_left_out_unless_they_have_no_scores():
    state = scored([2, -1, 0, 1, 1, 0, 2, 1, 0, 2])
    fresh = np.isin(np.arange(10), [1, 2, 3])
    assert state.stalest(1.0, fresh, ORDER).tolist() == [0, 1, 4, 5, 6, 7, 8, 9]
    assert state.stalest(0.3, fresh, ORDER).tolist() == [1, 5, 8]
    assert state.stalest(0.0, fresh, ORDER).tolist() == [1]
    assert state.stalest(1.0, ~NOTHING, ORDER).tolist() == [1]


def test_without_a_share_scored_images_stay_as_they_are():
    found = scored([0] * 10).stalest(0.0, NOTHING, ORDER)
    assert found.shape == (0,) and found.dtype == np.int64


def test_of_equal_age_the_given_order_decides_and_all_have_their_turn():
    state = scored([0] * 1000)
    nothing, order = np.zeros(1000, dtype=bool), np.random.default_rng(0).permutation(1000)
    assert state.stalest(0.25, nothing, order).tolist() == np.sort(order[:250]).tolist()
    seen = []
    for _ in range(4):
        state.round += 1
        seen.append(state.stalest(0.25, nothing, order))
        state.record(seen[-1], {'evs': np.zeros(250)})
    assert sorted(np.concatenate(seen)) == list(range(1000))
    assert set(state.stalest(0.25, nothing, order)) == set(seen[0])


def test_only_all_columns_together_make_an_image_fresh():
    state = fresh(3, ['evs', 'ds'])
    state.round = 0
    state.record(np.arange(3), {'evs': np.arange(3), 'ds': np.arange(3)})
    state.round = 1
    state.record(np.array([0, 2]), {'evs': np.array([7, 8])})
    assert state.scores['evs'].tolist() == [7, 1, 8] and state.scores['ds'].tolist() == [0, 1, 2]
    assert state.rows['scored_at'].tolist() == [0, 0, 0]
    state.record(np.array([1]), {'ds': np.array([5]), 'evs': np.array([5])})
    assert state.rows['scored_at'].tolist() == [0, 1, 0]


def test_forgetting_counts_turns_from_right_to_wrong():
    state = fresh(4, ['forgetting', 'evs'])
    assert scored_columns(['forgetting', 'evs']) == ['correct', 'evs'] == list(state.training_scores)
    history = np.array([[0, 0, 0, 0, 0], [1, 0, 1, 0, 1], [0, 1, 1, 1, 0], [0, 1, 0.9, 0.95, 0.2]]).T
    for state.round, correct in enumerate(history):
        state.record(np.arange(4), {'correct': correct.astype(np.float32), 'evs': correct})
    # a harvested 0.9 is as good as right
    assert state.scores['forgetting'].tolist() == [0, 2, 1, 1]


def test_an_image_that_is_wrong_at_first_has_forgotten_nothing():
    state = fresh(1, ['forgetting'])
    state.round = 0
    assert np.isnan(state.scores['forgetting'][0])
    state.record(np.array([0]), {'correct': np.array([0.0])})
    assert state.scores['forgetting'].tolist() == [0]


def test_gaps_are_rounds_since_the_last_coreset_or_the_start():
    state = fresh(3, ['evs'])
    for state.round, members in enumerate([[0], [1], [1]]):
        state.select(Selection(np.array(members)), np.arange(3))
    assert state.gaps().tolist() == [2, 0, 2]
    state.round = 3
    assert state.gaps().tolist() == [3, 1, 3]
    assert state.rows['trained_at'].tolist() == [0, 2, -1]


def saved(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_state_survives_a_checkpoint_and_shares_no_memory_with_it():
    state = fresh(10, ['forgetting', 'evs'])
    for state.round in range(2):
        state.record(np.array([1, 4]), {'correct': np.array([1.0, 0.0]), 'evs': np.array([0.1, 0.2])})
        state.select(Selection(np.array([4]), np.array([0.5])), np.arange(10))
    state.training_scores['evs'][3] = 0.5
    state.beta, state.trusts_training_scores, state.plan, state.next_round = 0.3, False, Plan(2, 0.5, 0.25), 7
    state.progress = Progress(1.5, 2.5, 40)
    written = saved(state.state_dict())
    kept = state.rows.copy()
    state.scores['evs'][:] = 9  # neither of them follows the other
    other = fresh(10, ['forgetting', 'evs'])
    other.load_state_dict(written)
    other.record(np.array([0]), {'correct': np.array([1.0]), 'evs': np.array([3.0])})
    other.load_state_dict(written)
    for name in kept.dtype.names:
        np.testing.assert_array_equal(other.rows[name], kept[name], name)
    assert other.round == 1 and isinstance(other.round, int)
    assert (other.beta, other.trusts_training_scores, other.next_round) == (0.3, False, 7)
    assert other.plan == Plan(2, 0.5, 0.25) and other.progress == Progress(1.5, 2.5, 40)
    assert other.selection.indices.tolist() == [4] and other.selection.probabilities.tolist() == [0.5]
    assert other.selection.indices.dtype == np.int64
    assert other.stalest(0.5, NOTHING, ORDER).tolist() == state.stalest(0.5, NOTHING, ORDER).tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_state_is_taken_up_from_a_gpu():
    state = fresh(3, ['evs'])
    written = state.state_dict()
    state.load_state_dict({**written, 'rows': written['rows'].cuda()})
    assert state.round == -1 and state.rows['scored_at'].tolist() == [-1] * 3


def test_other_columns_other_images_and_other_versions_are_refused():
    state = fresh(3, ['evs', 'loss']).state_dict()
    with pytest.raises(MmacsError, match=r"the score columns \['evs', 'loss'\], the config needs \['ds', 'evs'\]"):
        fresh(3, ['evs', 'ds']).load_state_dict(state)
    with pytest.raises(MmacsError, match='had 3 images when the checkpoint was written and now has 4'):
        fresh(4, ['evs', 'loss']).load_state_dict(state)
    with pytest.raises(MmacsError, match='has the format 99, this version of mmacs reads 1'):
        fresh(3, ['evs', 'loss']).load_state_dict({**state, 'version': 99})


def test_a_checkpoint_of_mmacs_0_1_is_taken_up():
    old = {
        'ledger': {
            'scored_at': torch.tensor([1, 0], dtype=torch.int32),
            'trained_at': torch.tensor([-1, 1], dtype=torch.int32),
            'round': torch.tensor(1),
            'score_correct': torch.tensor([1.0, 0.0]),
            'score_forgetting': torch.tensor([0.0, 2.0]),
            'harvested_correct': torch.tensor([np.nan, 0.5]),
        },
        'beta': 0.25,
        'seed': 11,
        'trusts_harvest': False,
        'data': 'abc',
        'images': 2,
        'indices': torch.tensor([1]),
        'pace': {
            'plan': [4, 0.5, 1.0],
            'next_round': 8,
            'selection_seconds': 2.0,
            'training_seconds': 3.0,
            'trained': 6,
        },
        'teacher': 'def',
        'sweep_start': None,
        'iterator': {'passes': 2, 'taken': 1},
    }
    new = upgraded(old)
    assert {name: new[name] for name in ('seed', 'data', 'teacher', 'sweep_start', 'iterator')} == {
        name: old[name] for name in ('seed', 'data', 'teacher', 'sweep_start', 'iterator')
    }
    state = fresh(2, ['forgetting'])
    state.load_state_dict(saved(new))
    assert state.rows['scored_at'].tolist() == [1, 0] and state.rows['trained_at'].tolist() == [-1, 1]
    assert state.scores['correct'].tolist() == [1, 0] and state.scores['forgetting'].tolist() == [0, 2]
    np.testing.assert_array_equal(state.training_scores['correct'], np.array([np.nan, 0.5], np.float32))
    assert (state.round, state.beta, state.trusts_training_scores, state.next_round) == (1, 0.25, False, 8)
    assert state.plan == Plan(4, 0.5, 1.0) and state.progress == Progress(2.0, 3.0, 6)
    assert state.selection.indices.tolist() == [1] and state.selection.probabilities is None
    assert upgraded(new) is new


def test_a_checkpoint_of_imagenet_grows_by_tens_of_megabytes():
    state = fresh(1_281_167, ['evs', 'ds']).state_dict()
    assert state['rows'].nbytes < 32e6
