import io

import numpy as np
import pytest
import torch

from mmacs.coreset.state import Ledger, scored_columns
from mmacs.utils.errors import MmacsError

NOTHING = np.zeros(10, dtype=bool)


def scored(ages, columns=('evs',)):
    """A ledger in the round after the last of these."""
    ledger = Ledger(len(ages), columns)
    ledger.scored_at = np.asarray(ages, dtype=np.int32)
    ledger.round = int(max(ages))
    return ledger


def test_unscored_images_come_first_however_small_the_share():
    ledger = scored([2, -1, 0, 1, -1, 0, 2, 1, 0, -1])
    assert ledger.stalest(0.0, NOTHING).tolist() == [1, 4, 9]
    assert ledger.stalest(0.3, NOTHING).tolist() == [1, 4, 9]
    assert ledger.stalest(0.6, NOTHING).tolist() == [1, 2, 4, 5, 8, 9]
    assert len(ledger.stalest(0.61, NOTHING)) == 7  # rounded up
    assert ledger.stalest(1.0, NOTHING).tolist() == list(range(10))


def test_fresh_images_are_left_out_unless_they_have_no_scores():
    ledger = scored([2, -1, 0, 1, 1, 0, 2, 1, 0, 2])
    fresh = np.isin(np.arange(10), [1, 2, 3])
    assert ledger.stalest(1.0, fresh).tolist() == [0, 1, 4, 5, 6, 7, 8, 9]
    assert ledger.stalest(0.3, fresh).tolist() == [1, 5, 8]
    assert ledger.stalest(0.0, fresh).tolist() == [1]
    assert ledger.stalest(1.0, ~NOTHING).tolist() == [1]


def test_without_a_share_scored_images_stay_as_they_are():
    found = scored([0] * 10).stalest(0.0, NOTHING)
    assert found.shape == (0,) and found.dtype == np.int64


def test_of_equal_age_the_order_is_random_and_fixed_and_all_have_their_turn():
    ledger = scored([0] * 1000)
    nothing = np.zeros(1000, dtype=bool)
    first = ledger.stalest(0.25, nothing)
    assert first.tolist() == ledger.stalest(0.25, nothing).tolist()
    assert abs(first.mean() - 500) < 50 and (np.histogram(first, 4, (0, 1000))[0] > 40).all()
    seen = []
    for _ in range(4):
        ledger.round += 1
        seen.append(ledger.stalest(0.25, nothing))
        ledger.record(seen[-1], {'evs': np.zeros(250)})
    assert sorted(np.concatenate(seen)) == list(range(1000))
    assert set(ledger.stalest(0.25, nothing)) == set(seen[0])


def test_only_all_columns_together_make_an_image_fresh():
    ledger = Ledger(3, ['evs', 'ds'])
    ledger.round = 0
    ledger.record(np.arange(3), {'evs': np.arange(3), 'ds': np.arange(3)})
    ledger.round = 1
    ledger.record(np.array([0, 2]), {'evs': np.array([7, 8])})
    assert ledger.scores['evs'].tolist() == [7, 1, 8] and ledger.scores['ds'].tolist() == [0, 1, 2]
    assert ledger.scored_at.tolist() == [0, 0, 0]
    ledger.record(np.array([1]), {'ds': np.array([5]), 'evs': np.array([5])})
    assert ledger.scored_at.tolist() == [0, 1, 0]


def test_forgetting_counts_turns_from_right_to_wrong():
    ledger = Ledger(4, ['forgetting', 'evs'])
    assert scored_columns(['forgetting', 'evs']) == ['correct', 'evs'] == list(ledger.harvested)
    history = np.array([[0, 0, 0, 0, 0], [1, 0, 1, 0, 1], [0, 1, 1, 1, 0], [0, 1, 0.9, 0.95, 0.2]]).T
    for ledger.round, correct in enumerate(history):
        ledger.record(np.arange(4), {'correct': correct.astype(np.float32), 'evs': correct})
    # a harvested 0.9 is as good as right
    assert ledger.scores['forgetting'].tolist() == [0, 2, 1, 1]


def test_an_image_that_is_wrong_at_first_has_forgotten_nothing():
    ledger = Ledger(1, ['forgetting'])
    ledger.round = 0
    assert np.isnan(ledger.scores['forgetting'][0])
    ledger.record(np.array([0]), {'correct': np.array([0.0])})
    assert ledger.scores['forgetting'].tolist() == [0]


def test_gaps_are_rounds_since_the_last_coreset_or_the_start():
    ledger = Ledger(3, ['evs'])
    for ledger.round, members in enumerate([[0], [1], [1]]):
        ledger.trained(np.array(members))
    assert ledger.gaps().tolist() == [2, 0, 2]
    ledger.round = 3
    assert ledger.gaps().tolist() == [3, 1, 3]
    assert ledger.trained_at.tolist() == [0, 2, -1]


def saved(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_state_survives_a_checkpoint_and_shares_no_memory_with_it():
    ledger = Ledger(10, ['forgetting', 'evs'])
    for ledger.round in range(2):
        ledger.record(np.array([1, 4]), {'correct': np.array([1.0, 0.0]), 'evs': np.array([0.1, 0.2])})
        ledger.trained(np.array([4]))
    ledger.harvested['evs'][3] = 0.5
    state = ledger.state_dict()
    written = saved(state)
    ledger.scores['evs'][:] = 9  # neither of them follows the other
    other = Ledger(10, ['forgetting', 'evs'])
    other.load_state_dict(written)
    other.record(np.array([0]), {'correct': np.array([1.0]), 'evs': np.array([3.0])})
    other.load_state_dict(written)
    assert other.round == 1 and isinstance(other.round, int)
    for name, tensor in other.state_dict().items():
        assert tensor.dtype == state[name].dtype
        np.testing.assert_array_equal(tensor.numpy(), state[name].numpy(), name)
    assert other.stalest(0.5, NOTHING).tolist() == ledger.stalest(0.5, NOTHING).tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_state_is_taken_up_from_a_gpu():
    ledger = Ledger(3, ['evs'])
    ledger.load_state_dict({name: tensor.cuda() for name, tensor in ledger.state_dict().items()})
    assert ledger.round == -1 and ledger.scored_at.tolist() == [-1] * 3


def test_other_columns_are_refused():
    state = Ledger(3, ['evs', 'loss']).state_dict()
    with pytest.raises(MmacsError, match=r"the score columns \['evs', 'loss'\], the config needs \['ds', 'evs'\]"):
        Ledger(3, ['evs', 'ds']).load_state_dict(state)


def test_a_checkpoint_of_imagenet_grows_by_tens_of_megabytes():
    state = Ledger(1_281_167, ['evs', 'ds']).state_dict()
    assert sum(tensor.nbytes for tensor in state.values()) < 32e6
