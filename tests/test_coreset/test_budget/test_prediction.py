import pytest

from mmacs.coreset.budget.prediction import Costs, Plan, Prediction, Spent, Work, choose_plan, predict, require_cheaper
from mmacs.utils.errors import MmacsError

IMAGES = 1000
EPOCHS = 3000  # so many that the first round doesn't count


def work(fraction, epochs=EPOCHS):
    return Work(IMAGES, round(fraction * IMAGES) * epochs, IMAGES * epochs, epochs)


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
        prediction = predict(Costs(score, 0, 3), work(fraction), plan, cached=True)
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
    assert predict(Costs(0.002, 0.001, 0.01), work(0.1, 12), Plan(5), cached=True)[:2] == pytest.approx((6, 12))
    assert predict(Costs(0.002, 0.001), work(0.1, 12), Plan(12, 1, 0.5)).selection == pytest.approx(0.75)


def test_during_a_run_what_was_spent_is_the_first_round():
    left = Work(IMAGES, 100 * 6, IMAGES * 12, 6)  # half of 12 epochs are over, a round was just held
    prediction = predict(Costs(0.002, 0.5, 0.01), left, Plan(3, 0.5), spent=Spent(10, 7))
    assert prediction.selection == pytest.approx(10 + 1)
    assert prediction.training == pytest.approx(7 + 6)
    assert prediction.full == pytest.approx(120)


@pytest.mark.parametrize(
    ('budget', 'plan'),
    [
        (0.60, Plan(1, 1.0, 1.0)),
        (0.30, Plan(1, 0.25, 1.0)),
        (0.15, Plan(1, 0.1, 1.0)),
        (0.08, Plan(2, 0.1, 1.0)),
        (0.06, Plan(4, 0.1, 1.0)),
        (0.03, Plan(1, 0.1, 0.5)),
        (0.02, Plan(2, 0.1, 0.5)),
    ],
)
def test_plan_of_highest_fidelity_within_the_budget(budget, plan):
    # 100 epochs of 0.3 x 1000 images at 3 s: 90000 s; a full scoring takes 1000 s
    choice = choose_plan(Costs(1, 0), work(0.3, 100), Plan(1), budget)
    assert choice.plan == plan
    assert choice.fits and choice.prediction.share <= budget


def test_smaller_budgets_never_choose_dearer_plans():
    costs, budgets = Costs(1, 1.5), [0.9, 0.6, 0.4, 0.2, 0.1, 0.05, 0.02, 0.01, 0.001]
    seconds = [choose_plan(costs, work(0.3, 90), Plan(2), budget).prediction.selection for budget in budgets]
    assert seconds == sorted(seconds, reverse=True)


def test_the_cheapest_plan_if_none_fits():
    choice = choose_plan(Costs(1, 0), work(0.1, 12), Plan(3, 0.5, 0.75), 0.001)
    assert not choice.fits
    assert choice.plan == Plan(12, 0.5, 0.5)  # one round: what later ones would score makes no difference


def test_no_plan_is_of_higher_fidelity_than_what_was_asked_for():
    assert choose_plan(Costs(1, 0), work(0.5, 100), Plan(7, 0.3, 0.4), 0.9).plan == Plan(7, 0.3, 0.4)
    assert choose_plan(Costs(1, 0), work(0.1, 100), Plan(7, 0.05, 0.4), 1e-6).plan == Plan(28, 0.05, 0.4)


def test_the_resolution_stays_during_a_run():
    choice = choose_plan(Costs(1, 0), work(0.1, 100), Plan(1), 1e-6, spent=Spent(1000, 50))
    assert choice.plan == Plan(4, 0.1, 1.0)


def test_a_cached_reference_serves_its_own_resolution_alone():
    choice = choose_plan(Costs(1, 20), Work(IMAGES, 1000, 10**6, 1), Plan(1), 1e-6, cached=True)
    assert choice.plan.resolution == 1  # one round of 1000 s, where half the resolution needs the teacher, 5250 s


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
