import pytest

from mmacs.coreset.budget.schedule import Schedule
from mmacs.utils.errors import MmacsError


def calendar(own, end=12):
    """Times of the rounds of a run."""
    times, next_round = [], own.warmup
    for now in range(end):
        if own.due(now, next_round, len(times), end):
            times.append(now)
            next_round = now + own.interval
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
        ({'interval': 100}, [0]),
        ({'interval': 1, 'rounds': 5}, [0, 1, 2, 3, 4]),
    ],
)
def test_when_rounds_are_held(settings, times):
    own = Schedule(**{'interval': 3, **settings})
    assert calendar(own) == own.times(12) == times
    for held, at in enumerate(times):
        assert own.rounds_left(at, own.interval, held, 12) == len(times) - held
    assert own.rounds_left(times[-1] + own.interval, own.interval, len(times), 12) == 0


def test_the_last_epochs_sweep():
    assert [now for now in range(12) if Schedule(full_data_last=3).sweeps(now, 12)] == [9, 10, 11]
    assert not any(Schedule().sweeps(now, 12) for now in range(12))


def test_there_is_another_round_until_the_last():
    own = Schedule(interval=3, rounds=2, full_data_last=3)
    assert own.awaits(3, held=1, end=12) and not own.awaits(6, held=2, end=12)
    assert not Schedule(interval=3, full_data_last=3).awaits(9, held=3, end=12)


def test_times_below_one_are_shares_of_the_run():
    own = Schedule(interval=0.25, warmup=0.15, full_data_last=0.125, rounds=2)
    assert own.over(16) == Schedule(interval=4, warmup=2, full_data_last=2, rounds=2)
    assert own.over(2) == Schedule(interval=1, warmup=1, full_data_last=1, rounds=2)  # a time at least
    assert Schedule(interval=3).over(16) == Schedule(interval=3)


@pytest.mark.parametrize('settings', [{'warmup': 12}, {'full_data_last': 12}, {'warmup': 7, 'full_data_last': 5}])
def test_a_run_without_time_for_a_round_is_refused(settings):
    with pytest.raises(MmacsError, match=r'warmup=\d+ and full_data_last=\d+ leave no time for a round in a run of 12'):
        Schedule(**settings).check(12)


@pytest.mark.parametrize(
    ('name', 'value', 'least'),
    [
        ('interval', 0, 1),
        ('interval', None, 1),
        ('interval', True, 1),
        ('warmup', -1, 0),
        ('full_data_last', 1.5, 0),
        ('rounds', 0, 1),
        ('rounds', 'two', 1),
    ],
)
def test_a_time_that_is_none(name, value, least):
    with pytest.raises(MmacsError, match=f'{name} must be a whole number, at least {least}, got'):
        Schedule(**{name: value})
