from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmacs.coreset.budget.prediction import (
    Costs,
    Extent,
    Plan,
    Prediction,
    Spent,
    Work,
    choose_plan,
    predict,
    require_cheaper,
)
from mmacs.utils.errors import MmacsError

IMAGES = 1000
EPOCHS = 3000  # so many that the first round doesn't count


def work(fraction, epochs=EPOCHS):
    return Work(IMAGES, round(fraction * IMAGES) * epochs, IMAGES * epochs, epochs, coreset=fraction)


@pytest.mark.parametrize(
    ('fraction', 'interval', 'naive', 'cached', 'harvested', 'half'),
    [
        (0.1, 1, 0.767, 0.433, 0.400, 0.175),
        (0.1, 3, 0.322, 0.211, 0.200, 0.125),
        (0.1, 10, 0.167, 0.133, 0.130, 0.1075),
        (0.5, 3, 0.722, 0.611, 0.556, 0.514),
    ],
)
def test_relative_cost_of_a_run_whose_step_is_three_forward_passes(fraction, interval, naive, cached, harvested, half):
    def relative(score, rescore=1.0, resolution=1.0):
        plan = Plan(interval, rescore, resolution)
        prediction = predict(Costs(score, 0, 3), work(fraction), plan)
        return prediction.total / prediction.full

    assert relative(score=2) == pytest.approx(naive, abs=1e-3)  # the teacher runs in each round
    assert relative(score=1) == pytest.approx(cached, abs=1e-3)
    assert relative(score=1, rescore=1 - fraction) == pytest.approx(harvested, abs=1e-3)
    assert relative(score=1, rescore=1 - fraction, resolution=0.5) == pytest.approx(half, abs=1e-3)


def test_relative_cost_with_distillation_whose_step_has_a_fourth_forward_pass():
    assert predict(Costs(2, 0, 4), work(0.1), Plan(3)).share == pytest.approx(0.1667 / 0.2667, abs=1e-3)


def test_seconds_of_a_short_run():
    # 12 epochs of 100 of 1000 images: rounds at epochs 0, 5, 10; 2 ms a scoring, 1 ms the teacher, 6 ms a step
    prediction = predict(Costs(0.002, 0.001), work(0.1, 12), Plan(5, 0.25))
    assert prediction.selection == pytest.approx(2 + 1 + 2 * 0.5)
    assert prediction.training == pytest.approx(7.2)
    assert prediction.full == pytest.approx(72)
    assert not prediction.measured
    assert predict(Costs(0.002, 0.001, 0.01), replace(work(0.1, 12), taught=1), Plan(5))[:2] == pytest.approx((6, 12))
    assert predict(Costs(0.002, 0.001), work(0.1, 12), Plan(12, 1, 0.5)).selection == pytest.approx(0.75)


def test_during_a_run_what_was_spent_is_the_first_round():
    left = Work(
        IMAGES, 100 * 6, IMAGES * 12, 6, first=False, scored=1, taught=1
    )  # half of 12 epochs are over, a round was just held
    prediction = predict(Costs(0.002, 0.5, 0.01), left, Plan(3, 0.5), spent=Spent(10, 7))
    assert prediction.selection == pytest.approx(10 + 1)
    assert prediction.training == pytest.approx(7 + 6)
    assert prediction.full == pytest.approx(120)


def test_rounds_of_candidates_score_them_alone_and_have_the_teacher_see_each_image_once():
    # rounds at 0, 4, 8 of 12 epochs: 400 of 1000 candidates each, of which 0.6 and 0.36 are new to the teacher
    prediction = predict(Costs(0.002, 0.001), work(0.1, 12), Plan(4, candidates=0.4))
    assert prediction.selection == pytest.approx(3 * 0.8 + 0.4 * (1 + 0.6 + 0.36))
    rare = predict(Costs(0.002, 0.0), work(0.1, 12), Plan(4, 0.25, candidates=0.4))  # what is new is always scored
    assert rare.selection == pytest.approx(0.8 * (1 + 0.6 + 0.36))
    late = replace(work(0.1, 12), first=False, left=8, scored=0.9, taught=0.5)
    assert predict(Costs(0.002, 0.001), late, Plan(4, 0.25, candidates=0.4), Spent(3, 1)).selection == pytest.approx(
        3 + 0.8 * 0.25 + 0.4 * 0.5
    )


@given(
    st.integers(1, 60),
    st.integers(1, 300),
    st.floats(0.02, 1),
    st.floats(0.01, 1),
    st.integers(0, 2**32 - 1),
)
def test_the_prediction_is_the_mean_of_runs_that_draw_their_candidates(interval, left, rescore, candidates, seed):
    costs, rng = Costs(1.0, 0.5), np.random.default_rng(seed)
    images = 2000
    given = Work(images, 0, 0, left)
    known, seconds = np.zeros(images, bool), 0.0
    count = max(1, round(candidates * images))
    rounds = range(0, left, interval)
    for _ in rounds:
        drawn = rng.choice(images, count, replace=False)
        new = np.count_nonzero(~known[drawn])
        seconds += max(rescore * count, new) * costs.score + new * costs.teacher
        known[drawn] = True
    expected = predict(costs, given, Plan(interval, rescore, candidates=count / images)).selection
    assert seconds == pytest.approx(expected, rel=0.1, abs=0.05 * images)


@pytest.mark.parametrize(
    ('budget', 'plan'),
    [
        (0.60, Plan(1, 1.0, 1.0)),
        (0.30, Plan(3, 1.0, 1.0)),
        (0.15, Plan(2, 0.25, 1.0)),
        (0.06, Plan(6, 0.25, 1.0)),
        (0.04, Plan(4, 0.1, 1.0)),
        (0.03, Plan(6, 0.1, 1.0)),
        (0.02, Plan(4, 0.25, 0.5)),
    ],
)
def test_plan_of_youngest_scores_within_the_budget(budget, plan):
    # 100 epochs of 0.3 x 1000 images at 3 s: 90000 s; a full scoring takes 1000 s
    choice = choose_plan(Costs(1, 0), replace(work(0.3, 100), coreset=1.0), Plan(1), budget)
    assert choice.plan == plan
    assert choice.fits and choice.prediction.share <= budget


@pytest.mark.parametrize(
    ('epochs', 'asked', 'plan'),
    [
        (200, Plan(20), Plan(20)),
        (200, Plan(10), Plan(10, candidates=0.4)),  # 4 times the coreset in the place of all images
        (200, Plan(2), Plan(8, candidates=0.4)),
        (20, Plan(2), Plan(12, 0.5, candidates=0.4)),
        (8, Plan(2), Plan(8, candidates=0.2)),  # one round that buys little
    ],
)
def test_a_fifth_of_the_time_of_training_buys_candidates_first(epochs, asked, plan):
    # seconds of ResNet-20 on one core
    choice = choose_plan(Costs(2.2e-3, 1.5e-3, 6.2e-3), work(0.1, epochs), asked, 1 / 6)
    assert choice.plan == plan and choice.fits
    assert choice.prediction.total / choice.prediction.full <= 0.12


def test_bfloat16_is_chosen_where_it_is_faster_and_needed():
    def plan(bfloat16, budget):
        return choose_plan(Costs(1, 0, bfloat16=bfloat16), work(0.5, 100), Plan(1), budget).plan

    assert plan(0.5, 0.5) == Plan(1) and plan(0.5, 0.3) == Plan(1, precision='bfloat16')
    assert {plan(one, 0.3).precision for one in (None, 0.95, 2.0)} == {'float32'}
    during = replace(work(0.5, 100), first=False, scored=1)
    assert choose_plan(Costs(1, 0, bfloat16=0.5), during, Plan(1), 0.3).plan.precision == 'float32'


@given(
    st.floats(0.01, 10),
    st.floats(0, 10),
    st.floats(0.01, 10),
    st.integers(1, 200),
    st.integers(1, 20),
    st.floats(0.01, 1),
    st.floats(0.05, 1),
    st.floats(0.01, 1),
)
def test_a_smaller_budget_never_chooses_a_dearer_plan_and_none_is_better_than_asked(
    score, teacher, step, epochs, interval, fraction, rescore, candidates
):
    asked, size = Plan(interval, rescore, 1.0, candidates), work(fraction, epochs)
    costs, seconds = Costs(score, teacher, step), []
    for budget in (0.9, 0.4, 0.2, 0.1, 0.05, 0.01, 0.001):
        plan, prediction, fits, before = choose_plan(costs, size, asked, budget)
        assert plan.interval >= asked.interval and plan.rescore <= rescore and plan.candidates <= candidates
        assert fits == (prediction.share <= budget) and before[0] == asked
        assert not fits or plan == asked or before[1].share > budget
        seconds.append(prediction.selection if fits else -prediction.selection)
    failed = [one for one in seconds if one < 0]
    assert len(set(failed)) <= 1 and seconds[len(seconds) - len(failed) :] == failed  # of what fits none, the cheapest


def test_the_cheapest_plan_if_none_fits():
    choice = choose_plan(Costs(1, 0), work(0.1, 12), Plan(3, 0.5, 0.75), 0.001)
    assert not choice.fits
    assert (choice.plan.candidates, choice.plan.resolution) == (0.2, 0.5) and choice.plan.interval >= 12  # one round


def test_no_plan_is_of_higher_fidelity_than_what_was_asked_for():
    assert choose_plan(Costs(1, 0), work(0.5, 100), Plan(7, 0.3, 0.4), 0.9).plan == Plan(7, 0.3, 0.4)
    choice = choose_plan(Costs(1, 0), work(0.1, 1000), Plan(7, 0.05, 0.4), 1e-6)
    assert choice.plan == Plan(56, 0.05, 0.4, 0.2) and not choice.fits


def test_no_plan_has_other_candidates_where_later_rounds_score_nothing():
    assert choose_plan(Costs(1, 0), work(0.1, 12), Plan(3, 0.0), 0.001).plan.candidates == 1


def test_the_resolution_stays_during_a_run():
    during = replace(work(0.1, 100), first=False, scored=1)
    choice = choose_plan(Costs(1, 0), during, Plan(1), 1e-6, Spent(1000, 50))
    assert not choice.fits and choice.plan.resolution == 1


def test_a_cached_reference_serves_its_own_resolution_alone():
    one = Work(IMAGES, 1000, 10**6, 1, taught=1)
    assert choose_plan(Costs(1, 20), one, Plan(1), 1e-6).plan.resolution == 1  # 1000 s; at the half 5250 s


def test_a_fraction_is_that_of_the_indices():
    assert Extent(end=12, per_unit=100, size=100, indices=400, images=200).coreset == 0.25


@pytest.mark.parametrize('budget', [0, 1, -0.1, True, '5%', float('nan')])
def test_a_budget_out_of_range(budget):
    with pytest.raises(MmacsError, match='budget must be a share of the wall time above 0 and below 1'):
        choose_plan(Costs(1, 0), work(0.1), Plan(1), budget)


def test_a_run_dearer_than_full_training_is_refused_unless_forced():
    dear = Prediction(selection=80.0, training=20.5, full=100.0, measured=False)
    with pytest.raises(MmacsError, match=r'80.0 s and training 20.5 s, more than the 100.0 s .* three forward passes'):
        require_cheaper(dear)
    require_cheaper(dear, force=True)
    require_cheaper(dear._replace(training=20.0))


@pytest.mark.parametrize('fault', [0.0, -1e-3, float('nan'), float('inf')])
def test_costs_that_no_clock_can_give_are_not_usable(fault):
    assert Costs(1e-3, 0.0, 1e-3, 1e-3).usable
    assert not Costs(fault, 0.0).usable
    assert not Costs(1e-3, fault or -1.0).usable


def test_an_unmeasured_step_is_three_forward_passes_where_these_are_known():
    assert Costs(score=0.02, teacher=0.0, forward=0.01).train == pytest.approx(0.03)
    assert Costs(score=0.02, teacher=0.0).train == pytest.approx(0.06)
    assert Costs(score=0.02, teacher=0.0, step=0.05, forward=0.01).train == 0.05
