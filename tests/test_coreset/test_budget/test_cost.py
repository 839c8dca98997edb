from dataclasses import replace

import pytest

from mmacs.coreset.budget.cost import AUTO_BUDGET, Cost, Known, in_words, look_ahead
from mmacs.coreset.budget.prediction import Costs, Extent, Plan, Spent
from mmacs.coreset.budget.schedule import Schedule
from mmacs.utils.errors import MmacsError

EXTENT = Extent(end=12, per_unit=100, size=100, indices=1000, images=1000)
DEAR = Extent(end=12, per_unit=900, size=900, indices=1000, images=1000)
STEP = Costs(score=1e-3, teacher=1e-3, step=3e-3)
NOTHING = Spent(0.0, 0.0)


def ahead(
    schedule=None,
    cost=None,
    costs=STEP,
    extent=EXTENT,
    plan=None,
    spent=NOTHING,
    now=0,
    held=0,
    trained=None,
    cached=True,
):
    schedule, cost = schedule or Schedule(interval=3), cost or Cost()
    plan, trained = plan or cost.plan(schedule, extent), now > 0 if trained is None else trained
    known = Known(scored=float(held > 0), taught=float(cached))
    return look_ahead(cost, schedule, extent, costs, plan, spent, now, held, trained, known)


def sentence(**settings):
    return in_words(ahead(**settings), None)


def test_the_prediction_is_that_of_the_run():
    # rounds at 0, 3, 6, 9: 4 x 1000 images at 1 ms, the teacher once; 12 x 100 images at 3 ms; in full 12 x 1000
    said = sentence(cached=False)
    assert 'selection 5.0 s and training 3.6 s, 24% of training on all images (36.0 s), selection 58%' in said
    assert 'selection 4.0 s' in sentence()
    assert 'selection 2.0 s' in sentence(schedule=Schedule(interval=3, rounds=2))
    assert 'selection 3.0 s' in sentence(schedule=Schedule(interval=3, full_data_last=3))
    assert 'selection 2.0 s' in sentence(schedule=Schedule(interval=3, warmup=6), now=6)
    assert said.endswith("preset='rs2' chooses at random, at no cost.") and "cost='auto'" in said
    assert 'at no cost' not in sentence(schedule=Schedule(interval=6, rounds=1))  # 22 %
    assert 'measured' in said and 'three forward passes' in sentence(costs=Costs(1e-3, 1e-3), cached=False)


@pytest.mark.parametrize('rounds', [None, 3])
def test_during_a_run_the_prediction_is_what_was_spent_and_what_is_left(rounds):
    spent = Spent(2.5, 1.1)  # two rounds, the second at 3
    said = sentence(schedule=Schedule(interval=3, rounds=rounds), spent=spent, now=3, held=2)
    later = 2 if rounds is None else 1
    assert f'selection {2.5 + later:.1f} s and training {1.1 + 9 * 0.3:.1f} s' in said


def test_a_run_dearer_than_full_training_is_refused_with_its_numbers_unless_forced():
    with pytest.raises(MmacsError, match=r'selection would take 12\.0 s and training 32\.4 s, more than the 36\.0 s'):
        ahead(schedule=Schedule(interval=1), extent=DEAR)
    assert '123% of training on all images' in sentence(
        schedule=Schedule(interval=1), extent=DEAR, cost=Cost(force=True)
    )


@pytest.mark.parametrize(
    ('spent', 'interval'),
    [
        (Spent(25.0, 1.2), 1),  # with 7 further rounds of 1 s and 3.6 s of training 35.6 s, against 36 s
        (Spent(27.0, 1.2), 2),  # with 3
        (Spent(30.0, 1.2), 4),  # with 1
        (Spent(4000.0, 1.2), 4),  # the machine stood still: that is no reason to hold no round at all
    ],
)
def test_after_the_first_step_the_interval_is_widened_and_nothing_is_refused(spent, interval):
    choice = ahead(schedule=Schedule(interval=1), spent=spent, now=4, held=3)
    assert choice.plan == Plan(interval)
    forced = ahead(schedule=Schedule(interval=1), cost=Cost(force=True), plan=choice.plan, spent=spent, now=4, held=3)
    assert forced.plan == Plan(1)


def test_the_first_round_after_a_warm_up_is_not_refused_either():
    warm = Schedule(interval=1, warmup=2)
    assert ahead(schedule=warm, extent=DEAR, spent=Spent(0.1, 5.4), now=2).plan == Plan(4)
    with pytest.raises(MmacsError, match='more than the'):
        ahead(schedule=Schedule(interval=1), extent=DEAR)


def test_a_budget_makes_rounds_cheaper_and_says_what_they_would_have_cost():
    choice = ahead(schedule=Schedule(interval=1), cost=Cost(budget=0.3))
    assert choice.plan == Plan(4, candidates=0.4) and choice.prediction.share <= 0.3
    said = in_words(choice, 0.3, EXTENT.coreset)
    assert said.endswith(
        'Chosen: interval=4 (asked: 1), candidates=4 (asked: all images), to keep within budget=0.3, where what was '
        'asked for would take 12.0 s, 77% of the total.'
    )


def test_a_budget_that_the_plan_keeps_changes_nothing():
    choice = ahead(cost=Cost(budget=0.9))
    assert choice.plan == Plan(3) and choice.fits
    assert in_words(choice, 0.9).endswith('The plan stays as asked, which keeps within budget=0.9.')


def test_a_budget_that_nothing_keeps_takes_the_cheapest_plan_and_says_so():
    choice = ahead(cost=Cost(budget=0.001))
    assert 'the cheapest plan, though not within budget=0.001' in in_words(choice, 0.001, EXTENT.coreset)
    assert choice.plan.interval >= 12 and not choice.fits  # one round alone
    single = ahead(cost=Cost(budget=0.001, candidates=1, resolution=0.5), schedule=Schedule(interval=12))
    assert in_words(single, 0.001).endswith('as asked, which is the cheapest, though not within, budget=0.001.')


def test_what_was_spent_before_the_first_round_counts_against_the_budget_but_is_no_reason_to_refuse_a_run():
    cost = Cost(budget='auto')
    assert cost.share == AUTO_BUDGET == pytest.approx(0.2 / 1.2)  # a fifth of the time of training
    assert ahead(schedule=Schedule(interval=12), cost=cost, costs=Costs(1e-4, 0.0, 3e-3)).plan == Plan(12)
    late = ahead(schedule=Schedule(interval=12), cost=cost, costs=Costs(1e-4, 0.0, 3e-3), spent=Spent(0.65, 0.0))
    assert late.plan == Plan(12, candidates=0.4) and late.prediction.selection == pytest.approx(0.65 + 0.04)
    assert ahead(schedule=Schedule(interval=12), spent=Spent(50.0, 0.0)).prediction.too_long


def test_the_plan_follows_measured_costs_but_keeps_its_kind_of_scores():
    schedule = Schedule(interval=1)
    plan = ahead(schedule=schedule, cost=Cost(budget=0.001)).plan
    assert plan.resolution == 0.5
    plan = plan._replace(precision='bfloat16')
    later = ahead(schedule=schedule, cost=Cost(budget=0.5), plan=plan, spent=Spent(0.3, 10.0), now=4, held=2)
    assert later.plan == Plan(1, 1.0, 0.5, 1.0, 'bfloat16')


def test_candidates_are_a_multiple_of_the_coreset():
    schedule = Schedule(interval=3)
    assert Cost(candidates=4).plan(schedule, EXTENT) == Plan(3, candidates=0.4)
    assert Cost(candidates=4).plan(schedule, DEAR) == Cost().plan(schedule, EXTENT) == Plan(3)


@pytest.mark.parametrize(
    ('sizes', 'trimmed', 'share'),
    [(None, 0.0, 0.1), (None, 0.5, 0.2), (None, 0.3, 0.143), ([250, 50, 50], 0.0, 0.25), ([250, 50, 50], 0.5, 0.5)],
)
def test_candidates_are_so_many_that_trimming_leaves_the_largest_coreset(sizes, trimmed, share):
    extent = replace(EXTENT, sizes=sizes, trimmed=trimmed)
    assert Cost(candidates=1).plan(Schedule(), extent).candidates == share
    assert Cost(candidates=6).plan(Schedule(), extent).candidates == pytest.approx(0.6)
    cheapest = ahead(cost=Cost(budget=0.001), schedule=Schedule(interval=1), extent=extent)
    assert cheapest.plan.candidates == max(share, 0.2)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'rescore': 1.5}, 'rescore must be a share of the images, from 0 to 1, got 1.5'),
        ({'rescore': True}, 'rescore must be'),
        ({'harvest': 'no'}, "harvest must be True or False, got 'no'"),
        ({'force': 1}, 'force must be True or False, got 1'),
        ({'budget': 0}, 'budget must be a share of the wall time above 0 and below 1'),
        ({'budget': '5%'}, "budget must be a share .*, or 'auto', got '5%'"),
        ({'candidates': 0.5}, 'candidates must be a multiple of the coreset of at least 1, such as 4, .*, got 0.5'),
        ({'candidates': 'few'}, 'candidates must be'),
    ],
)
def test_costs_out_of_range(settings, message):
    with pytest.raises(MmacsError, match=message):
        Cost(**settings)
