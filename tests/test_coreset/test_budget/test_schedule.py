import json
from contextlib import nullcontext

import pytest

from mmacs.coreset.budget.prediction import Costs, Plan
from mmacs.coreset.budget.schedule import Extent, Schedule, describe
from mmacs.utils.errors import MmacsError

EXTENT = Extent(end=12, per_unit=100, size=100, indices=1000, images=1000)
STEP = Costs(score=1e-3, teacher=1e-3, step=3e-3)


def schedule(plan=None, extent=EXTENT, **changes):
    settings = dict(warmup=0, full_data_last=0, rounds=None, budget=None, force=False)
    settings.update(changes)
    found = Schedule(plan or Plan(3), **settings)
    found.begin(extent)
    return found


def calendar(own, end=12):
    """Times of the rounds of a run."""
    times = []
    for now in range(end):
        if own.due(now, len(times)):
            times.append(now)
            own.round_held(now)
    return times


@pytest.mark.parametrize(
    ('settings', 'times'),
    [
        ({}, [0, 3, 6, 9]),
        ({'warmup': 2}, [2, 5, 8, 11]),
        ({'full_data_last': 3}, [0, 3, 6]),
        ({'full_data_last': 4, 'warmup': 7}, [7]),
        ({'rounds': 1}, [0]),
        ({'rounds': 2, 'warmup': 1}, [1, 4]),
        ({'plan': Plan(100)}, [0]),
        ({'plan': Plan(1), 'rounds': 5}, [0, 1, 2, 3, 4]),
    ],
)
def test_when_rounds_are_held(settings, times):
    assert calendar(schedule(**settings)) == times


def test_the_last_epochs_sweep():
    assert [now for now in range(12) if schedule(full_data_last=3).sweeps(now)] == [9, 10, 11]
    assert not any(schedule().sweeps(now) for now in range(12))


@pytest.mark.parametrize('settings', [{'warmup': 12}, {'full_data_last': 12}, {'warmup': 7, 'full_data_last': 5}])
def test_a_run_without_time_for_a_round_is_refused(settings):
    with pytest.raises(MmacsError, match=r'warmup=\d+ and full_data_last=\d+ leave no time for a round in a run of 12'):
        schedule(**settings)


def test_the_prediction_is_that_of_the_run():
    # rounds at 0, 3, 6, 9: 4 x 1000 images at 1 ms, the teacher once; 12 x 100 images at 3 ms; in full 12 x 1000
    sentence = schedule().choose(STEP, 0, 0, cached=False)
    assert 'selection 5.0 s and training 3.6 s, 24% of training on all images (36.0 s), selection 58%' in sentence
    assert 'selection 4.0 s' in schedule().choose(STEP, 0, 0, cached=True)
    assert 'selection 2.0 s' in schedule(rounds=2).choose(STEP, 0, 0, cached=True)
    assert 'selection 3.0 s' in schedule(full_data_last=3).choose(STEP, 0, 0, cached=True)
    assert 'selection 2.0 s' in schedule(warmup=6).choose(STEP, 6, 0, cached=True)
    assert 'measured' in sentence and 'three forward passes' in schedule().choose(Costs(1e-3, 1e-3), 0, 0, cached=False)


@pytest.mark.parametrize('rounds', [None, 3])
def test_during_a_run_the_prediction_is_what_was_spent_and_what_is_left(rounds):
    own = schedule(rounds=rounds)
    own.selection_seconds, own.training_seconds = 2.5, 1.1  # two rounds, the second at 3
    sentence = own.choose(STEP, 3, 2, cached=True)
    later = 2 if rounds is None else 1
    assert f'selection {2.5 + later:.1f} s and training {1.1 + 9 * 0.3:.1f} s' in sentence


def test_a_run_dearer_than_full_training_is_refused_with_its_numbers_unless_forced():
    dear = Extent(end=12, per_unit=900, size=900, indices=1000, images=1000)
    with pytest.raises(MmacsError, match=r'selection would take 12\.0 s and training 32\.4 s, more than the 36\.0 s'):
        schedule(Plan(1), dear).choose(STEP, 0, 0, cached=True)
    assert '123% of training on all images' in schedule(Plan(1), dear, force=True).choose(STEP, 0, 0, cached=True)


@pytest.mark.parametrize(('held', 'refused'), [(2, True), (3, False), (9, False)])
def test_a_run_is_refused_once_more_when_a_step_was_measured_but_not_near_its_end(held, refused):
    own = schedule()
    own.selection_seconds, own.training_seconds = 40.0, 1.0
    with pytest.raises(MmacsError, match='more than') if refused else nullcontext():
        own.choose(STEP, 6, held, cached=True)


def test_a_budget_makes_the_plan_cheaper_and_rounds_rarer():
    own = schedule(Plan(1), budget=0.3)
    assert 'selection_budget=0.3' in own.choose(STEP, 0, 0, cached=True)
    assert own.plan != own.asked == Plan(1)
    times = calendar(own)
    assert times == list(range(0, 12, own.plan.interval))
    selection = own.plan.resolution**2 * (1 + own.plan.rescore * (len(times) - 1))
    assert selection / (selection + 3.6) <= 0.3


def test_a_budget_that_the_plan_keeps_changes_nothing():
    own = schedule(budget=0.9)
    assert own.choose(STEP, 0, 0, cached=True).endswith(f'Plan: {describe(Plan(3))}: within selection_budget=0.9.')
    assert own.plan == Plan(3)


def test_a_budget_that_nothing_keeps_takes_the_cheapest_plan_and_says_so():
    own = schedule(budget=0.001)
    assert 'the cheapest, though not within selection_budget=0.001' in own.choose(STEP, 0, 0, cached=True)
    assert own.plan == Plan(12, 1.0, 0.5)  # one round alone


def test_the_plan_follows_measured_costs_but_keeps_its_resolution():
    own = schedule(Plan(1), budget=0.001)
    own.choose(STEP, 0, 0, cached=True)
    assert own.plan == Plan(4, 0.1, 0.5)
    own.budget, own.selection_seconds, own.training_seconds = 0.5, 0.3, 10.0
    own.choose(STEP, 4, 2, cached=True)
    assert own.plan == Plan(1, 1.0, 0.5)


def test_costs_are_at_full_resolution_and_the_step_is_measured_once_there_was_training():
    own = schedule(Plan(3, 1.0, 0.5))
    assert own.costs(0.01, 0.02) == Costs(0.04, 0.08, None)
    own.training_seconds, own.trained = 6.0, 300
    assert own.costs(0.01, 0.0) == Costs(0.04, 0.0, 0.02)


def test_state_survives_a_checkpoint():
    own = schedule(Plan(1), budget=0.1)
    own.choose(STEP, 0, 0, cached=True)
    own.round_held(0)
    own.selection_seconds, own.training_seconds = 1.5, 2.5
    other = schedule(Plan(1), budget=0.1)
    other.load_state_dict(json.loads(json.dumps(own.state_dict())))
    assert other.state_dict() == own.state_dict() and isinstance(other.plan, Plan)
    assert calendar(other) == [now for now in range(12) if now and now % own.plan.interval == 0]
    unlimited = schedule(Plan(5))
    unlimited.load_state_dict(own.state_dict())
    assert unlimited.plan == Plan(5)  # the config's, which may have been changed
