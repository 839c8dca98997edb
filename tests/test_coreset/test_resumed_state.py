from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmacs.coreset.budget.prediction import Plan
from mmacs.coreset.resumed_state import sound_state
from mmacs.coreset.selection.selectors import Selection
from mmacs.coreset.state import CoresetState
from mmacs.utils.errors import MmacsError

M, N = 6, 12  # images, indices
DATA = SimpleNamespace(fingerprint='0123456789abcdef', positions=np.arange(N) % M)


def written(**changes):
    """The state of a run after its first round, with changes."""
    state = CoresetState(M, ['evs', 'loss'], Plan(1))
    state.round = 0
    state.record(np.arange(M), {'evs': np.linspace(0, 1, M), 'loss': np.ones(M)})
    state.record_training_scores(np.array([2]), {'evs': np.array([0.5])})
    state.select(Selection(np.array([1, 5, 9]), np.full(3, 0.5)), DATA.positions)
    hook = {'data': DATA.fingerprint, 'contents': 'ab' * 16, 'seed': 7, 'sweep_start': None, 'teacher': 'ef' * 8}
    return {**state.state_dict(), **hook, 'iterator': {'passes': 1, 'taken': 0}, **changes}


def without(*names):
    return {name: value for name, value in written().items() if name not in names}


def row(**changes):
    """Rows in which one image has other values."""
    state = CoresetState(M, ['evs', 'loss'], Plan(1))
    state.load_state_dict(written())
    for name, value in changes.items():
        state.rows[name][3] = value
    return written(rows=state.state_dict()['rows'])


def check(state, now=1):
    return sound_state(state, 'runs/epoch_1.pth', DATA, now)


def test_what_a_run_writes_is_sound_and_stays_as_it_is():
    for state in (
        written(),
        written(shown=torch.ones(N, dtype=torch.bool)),
        written(iterator=None, contents=None, teacher=None),
        without('probabilities', 'contents'),
    ):
        assert check(state) is state
    before = CoresetState(M, ['evs'], Plan(2, 0.5, 0.5), next_round=3).state_dict()  # of a run that still warms up
    hook = {name: value for name, value in written().items() if name not in before}
    assert check({**before, **hook, 'indices': None})['round'] == -1
    assert check(written(version=0))  # of a version that the state itself refuses, with a sentence of its own


@pytest.mark.parametrize(
    ('state', 'fault'),
    [
        (None, 'it is NoneType in the place of a dict'),
        (torch.zeros(3), 'it is Tensor in the place of a dict'),
        ({'ledger': {}}, 'it cannot be read as one of mmacs 0.1 either'),
        ({'ledger': {'round': 1, 'scored_at': torch.zeros(3)}, 'pace': None}, 'it cannot be read'),
        (without('rows', 'seed'), 'it has no rows, seed'),
        (written(version=99), 'it has the format 99, this version reads 1'),
        (written(version='1'), "version is '1'"),
        (written(round=-2), 'round is -2'),
        (written(round=2), 'round is 2'),
        (written(round=0.0), 'round is 0.0'),
        (written(round=True), 'round is True'),
        (written(beta=float('nan')), 'beta is nan'),
        (written(beta='x' * 99), "beta is 'x{59}..."),
        (written(trusts_training_scores=1), 'trusts_training_scores is 1'),
        (written(plan=[]), r'plan is \[\]'),
        (written(asked=5), 'asked is 5'),
        (written(plan=[0]), r'plan is \[0\]'),
        (written(plan=[1, 2.0]), r'plan is \[1, 2.0\]'),
        (written(candidates=[True] * M), r'candidates is \[True'),
        (written(candidates=torch.ones(M)), 'candidates is a tensor of torch.float32'),
        (
            written(candidates=torch.ones(M + 1, dtype=torch.bool)),
            r'candidates is .* in the place of one bool per image',
        ),
        ({**row(scored_at=-1), 'candidates': torch.ones(M, dtype=torch.bool)}, 'image 3 is a candidate without scores'),
        (written(plan=[1, 1.0, 1.0, 1.0, 'int8']), "plan is .*'int8'"),
        (written(plan=[1, 1.0, 1.0, 2.0]), 'plan is'),
        (written(plan=[1, 1.0, 1.0, 1.0, 'float32', 1]), 'plan is'),
        (written(next_round=-1), 'next_round is -1'),
        (written(shown=[True] * N), 'shown is .* in the place of one bool for each index'),
        (written(shown=torch.zeros(N)), 'shown is a tensor of torch.float32'),
        (written(shown=torch.zeros(M, dtype=torch.bool)), f'shown is of {M} indices, and the data set has {N}'),
        (written(next_round=1.5), 'next_round is 1.5'),
        (written(selection_seconds=-1.0), 'selection_seconds is -1.0'),
        (written(training_seconds=float('inf')), 'training_seconds is inf'),
        (written(trained_images=-8), 'trained_images is -8'),
        (written(trained_images=torch.ones(2)), r'trained_images is a tensor of torch.float32 with shape \(2,\)'),
        (written(seed=-1), 'seed is -1'),
        (written(seed=None), 'seed is None'),
        (written(sweep_start=-3), 'sweep_start is -3'),
        (written(data=5), 'data is 5'),
        (written(teacher='../teacher'), 'teacher is'),
        (written(contents=b'a'), 'contents is'),
        (written(fields=None), 'fields is None'),
        (written(fields=[['scored_at']]), 'fields is'),
        (written(fields=[['scored_at', '<i4'], ['trained_at', 'O']]), 'fields is'),
        (written(fields=[['scored_at', '<i4'], ['scored_at', '<i4']]), 'fields is'),
        (written(rows=torch.zeros(M, 7)), 'rows is a tensor of torch.float32 with shape'),
        (written(rows=written()['rows'][:, :-1]), 'in the place of bytes, 24 per image'),
        (written(rows=written()['rows'].flatten()), 'in the place of bytes'),
        (row(scored_at=5), 'scored_at holds rounds from 0 to 5, the last is 0'),
        (row(trained_at=-7), 'trained_at holds rounds from -7'),
        (row(score_evs=np.nan), 'image 3 has nan as its evs'),
        (row(score_loss=np.inf), 'image 3 has inf as its loss'),
        (row(training_evs=-np.inf), 'image 3 has -inf as its training_evs'),
        (without('indices'), 'it has no coreset after round 0'),
        (written(indices=torch.tensor([1.0, 2.0, 3.0])), 'indices is a tensor of torch.float32'),
        (written(indices=[1, 2, 3]), r'indices is \[1, 2, 3\]'),
        (written(indices=torch.zeros(0, dtype=torch.int64)), 'it holds no image'),
        (written(indices=torch.tensor([-1, 2, 3])), 'its lowest index is -1'),
        (written(indices=torch.tensor([1, 2, N])), 'it holds index 12, and the data set has 12'),
        (written(indices=torch.tensor([1, 2, 2])), 'it holds an index twice'),
        (written(probabilities=torch.ones(2)), 'probabilities is a tensor'),
        (written(probabilities=torch.tensor([1.0, 0.0, 1.0])), 'probabilities are not above 0'),
        (written(probabilities=torch.full((3,), np.nan)), 'probabilities are not above 0'),
        (written(iterator=[1]), r'iterator is \[1\]'),
        (written(iterator={'passes': 1}), 'taken is None'),
        (written(iterator={'passes': -1, 'taken': 0}), 'passes is -1'),
    ],
)
def test_what_no_run_writes_is_one_sentence_that_names_the_checkpoint(state, fault):
    with pytest.raises(MmacsError, match=f'^cannot resume from runs/epoch_1.pth: its coreset is damaged, .*{fault}'):
        check(state)


def test_a_coreset_of_another_data_set_is_left_to_whoever_says_so():
    assert check(written(data='f' * 16, indices=torch.tensor([1, 2, 3 * N])))
