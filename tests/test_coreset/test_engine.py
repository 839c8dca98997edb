"""Rounds and draws on scores that are given: no model, no images."""

import io
import time
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, RepeatDataset

from mmacs.coreset import engine as module
from mmacs.coreset import pricing
from mmacs.coreset.budget.cost import Cost
from mmacs.coreset.budget.prediction import Costs, Plan
from mmacs.coreset.budget.schedule import Schedule
from mmacs.coreset.data import TrainingData
from mmacs.coreset.engine import CoresetEngine, Round
from mmacs.coreset.image_contents import Contents
from mmacs.coreset.round_record import remove_rounds, write_round
from mmacs.coreset.sampler import CoresetSampler
from mmacs.coreset.scoring.measure import measure_costs
from mmacs.coreset.scoring.proxy import Proxy
from mmacs.coreset.scoring.scorers import Scorer
from mmacs.coreset.scoring.scoring_pass import ScoringPass
from mmacs.coreset.selection.constraints import Constraints
from mmacs.coreset.selection.importance import Importance
from mmacs.coreset.selection.normalisation import MAX_STRATA, count_strata
from mmacs.coreset.selection.policy import Policy
from mmacs.coreset.selection.selectors import ClassBalanced, GumbelTopK, Random, Sweep, TopK
from mmacs.coreset.selection.selectors.class_balanced import class_groups
from mmacs.coreset.settings import CoresetSettings
from mmacs.datasets.distinct_images import DistinctImages
from mmacs.utils.errors import MmacsError

IMAGES = 200


RELEVANT = {'evs': np.linspace(0, 1, IMAGES, dtype=np.float32), 'ds': np.full(IMAGES, 0.25, np.float32)}


class Images(BaseDataset):
    """Images with one object each, but for every fifth, which has none; every tenth label is wrong on purpose."""

    def __init__(self, count=IMAGES, shift=0):
        self.count, self.shift = count, shift
        super().__init__(serialize_data=False)  # which takes a while

    def load_data_list(self):
        return [
            dict(
                img_path=f'{number}.png',
                img_id=number,
                noise=number % 10 == 0,
                instances=[dict(bbox=[0, 0, 5, 5 + self.shift], bbox_label=number % 3)] * (number % 5 > 0),
            )
            for number in range(self.count)
        ]


class Given(Scorer):
    columns = {'evs': '', 'ds': '', 'loss': '', 'correct': '', 'forgetting': '', 'teacher_error': ''}
    teacher_columns = frozenset({'ds', 'teacher_error'})
    training_columns = frozenset({'evs', 'loss', 'correct'})

    def score(self, model, outputs, data_samples, teacher_outputs, columns):
        return {name: outputs for name in columns}


class GivenScores(ScoringPass):
    """Scores that follow from image, column and round."""

    def __init__(self, data):
        super().__init__(data, batch_size=4)
        self.asked = []

    def with_proxy(self, proxy):
        return self

    def truth(self, positions, column, number):
        every = np.random.default_rng([len(column), number]).random(len(self.data))
        return every[positions].astype(np.float32)

    def scores(self, scorer, model, positions, columns, teacher_outputs):
        self.asked.append(positions)
        return {name: self.truth(positions, name, len(self.asked) - 1) for name in columns}


def engine(
    weights=None,
    harvest=False,
    policy=None,
    normalisation='rank',
    data=None,
    seed=3,
    size=100,
    rescore=1.0,
    force=False,
    candidates=None,
    end=8,
    **schedule,
):
    data = TrainingData.read(DistinctImages(RepeatDataset(data or Images(), 2), []))
    settings = CoresetSettings(
        Given(),
        Importance(weights or {'evs': 'beta', 'ds': '1 - beta'}, normalisation=normalisation),
        policy or Policy(TopK(), Constraints()),
        Schedule(**schedule),
        Cost(harvest=harvest, rescore=rescore, force=force, candidates=candidates),
    )
    indices = len(data.positions)
    sampler = CoresetSampler(range(indices), fraction=min(size, indices) / indices, seed=seed)
    return CoresetEngine(settings, data, GivenScores(data), sampler, end=end, per_unit=sampler.size)


def hold(own, beta=0.5):
    return own.score(None, beta, own.next_images(), None)


# -------------------------------------------------------------------- rounds
def test_a_round_scores_all_images_and_mixes_them():
    own = engine()
    facts = hold(own, beta=0.25)
    evs, ds = (own.scoring.truth(np.arange(IMAGES), name, 0) for name in ('evs', 'ds'))
    assert facts == {'scored': IMAGES, 'evs': pytest.approx(evs.mean()), 'ds': pytest.approx(ds.mean())}
    ranks = [(np.argsort(np.argsort(column)) + 0.5) / IMAGES for column in (evs, ds)]
    np.testing.assert_allclose(own.importance(), 0.25 * ranks[0] + 0.75 * ranks[1], atol=0.01)  # but for ties
    assert own.state.round == 0 and own.state.beta == 0.25 and own.settings.needs_teacher


def test_later_rounds_score_a_share_stalest_first():
    own = engine(rescore=0.3)
    for _ in range(5):
        hold(own)
    first, *others = own.scoring.asked
    assert len(first) == IMAGES and [len(asked) for asked in others] == [60] * 4
    assert len(np.unique(np.concatenate(others[:3]))) == 180
    assert set(range(IMAGES)) == set(np.concatenate(others))
    assert np.bincount(own.state.rows['scored_at'], minlength=5).tolist() == [0, 20, 60, 60, 60]


def test_scores_of_different_age_are_ranked_apart():
    own = engine(rescore=0.5)
    hold(own)
    hold(own)
    young = own.state.rows['scored_at'] == 1
    own.state.scores['evs'][young] += 100  # a model of another age may score everything higher
    own.state.beta = 1.0
    importance = own.importance()
    for cohort in (young, ~young):
        np.testing.assert_allclose(np.sort(importance[cohort]), (np.arange(100) + 0.5) / 100)
    own.draw(0)
    chosen = own.data.positions[own.state.selection.indices]
    assert young[chosen].mean() == pytest.approx(0.5, abs=0.02)


def test_strata_are_formed_among_scores_of_one_age():
    own = engine(normalisation='stratified_rank', rescore=0.5)
    hold(own)
    np.testing.assert_array_equal(own._groups(), count_strata(own.data.object_counts))
    hold(own)
    groups, counts = own._groups(), own.data.object_counts
    for age in (0, 1):
        members = own.state.rows['scored_at'] == age
        np.testing.assert_array_equal(groups[members] - age * MAX_STRATA, count_strata(counts[members]))


def test_a_score_that_is_not_finite_stops_the_draw():
    own = engine()
    hold(own)
    own.state.scores['ds'][7] = np.inf
    with pytest.raises(MmacsError, match='1 ds scores are not finite, the first is that of image 7'):
        own.draw(0)


def test_derived_and_trimming_columns_are_scored_for_those_who_need_them():
    own = engine({'forgetting': 1.0})
    assert own.settings.scored_columns == ['correct'] and not own.settings.needs_teacher
    hold(own)
    assert own.importance().tolist() == [0.0] * IMAGES  # nothing is forgotten yet
    own = engine({'evs': 1.0}, policy=Policy(TopK(), Constraints(trim=0.1)))
    assert own.settings.scored_columns == ['evs', 'teacher_error', 'ds'] and own.settings.needs_teacher


def test_a_random_draw_from_what_the_teacher_does_not_contradict_needs_the_teacher_alone(monkeypatch):
    monkeypatch.setattr(Given, 'kept_columns', frozenset({'teacher_error'}))
    own = engine({'teacher_error': 1.0}, policy=Policy(Random(), Constraints(trim=0.3)))
    assert own.settings.scored_columns == ['teacher_error']
    hold(own)
    left_out = own.excluded()
    errors = own.state.scores['teacher_error']
    assert left_out.sum() == 60 and errors[left_out].min() >= errors[~left_out].max()
    shown = np.concatenate([own.data.positions[own.draw(number).indices] for number in range(20)])
    assert np.array_equal(np.unique(shown), np.flatnonzero(~left_out))  # each of the others comes, and none of these


# -------------------------------------------------------------------- harvest
def harvest(own, positions, slope=0.5, intercept=0.1):
    """Training forwards that order the images as the next round's exact scores do, on another scale."""
    number = len(own.scoring.asked)
    for name in own.settings.training_columns:
        truth = own.scoring.truth(np.arange(IMAGES), name, number)
        own.state.training_scores[name][positions] = slope * truth[positions] + intercept


def test_harvested_scores_take_the_place_of_exact_ones_on_their_scale():
    own = engine({'evs': 1.0}, harvest=True)
    hold(own)
    trained = np.arange(40, 140)
    harvest(own, trained)
    facts = hold(own)
    asked = own.scoring.asked[-1]
    assert facts['scored'] == len(asked) == IMAGES - 100 + 32  # the untrained, and some to align with
    assert facts['harvest_evs'] == pytest.approx(1)
    expected = own.scoring.truth(np.arange(IMAGES), 'evs', 1)
    np.testing.assert_allclose(own.state.scores['evs'], expected, atol=2e-4)
    np.testing.assert_array_equal(own.state.scores['evs'][asked], expected[asked])  # exact ones stay exact
    assert (own.state.rows['scored_at'] == 1).all() and np.isnan(own.state.training_scores['evs']).all()


@pytest.mark.parametrize('slope', [-0.5, 0.0])
def test_harvested_scores_that_say_something_else_are_dropped(slope):
    own = engine({'evs': 1.0}, harvest=True)
    hold(own)
    before = own.state.scores['evs'].copy()
    harvest(own, np.arange(100), slope)
    hold(own)
    rest = np.setdiff1d(np.arange(IMAGES), own.scoring.asked[-1])
    assert len(rest) == 68
    np.testing.assert_array_equal(own.state.scores['evs'][rest], before[rest])
    assert (own.state.rows['scored_at'][rest] == 0).all() and np.isnan(own.state.training_scores['evs']).all()
    hold(own)
    assert np.isin(rest, own.scoring.asked[-1]).all()


def test_with_a_small_share_there_are_images_to_align_with_nevertheless():
    own = engine({'evs': 1.0}, harvest=True, rescore=0.1)
    hold(own)
    for number in range(1, 4):
        harvest(own, np.arange(100))
        facts = hold(own)
        assert facts['harvest_evs'] == pytest.approx(1)
        expected = own.scoring.truth(np.arange(100), 'evs', number)
        np.testing.assert_allclose(own.state.scores['evs'][:100], expected, atol=2e-4)
        assert len(own.scoring.asked[-1]) <= 20 + 32


def test_columns_that_training_cannot_give_keep_images_stale():
    # or an image that is always trained on would never have its disagreement measured again
    own = engine(harvest=True, rescore=0.5)
    assert own.settings.training_columns == ['evs'] and own.settings.scored_columns == ['evs', 'ds']
    hold(own)
    trained = np.arange(IMAGES)
    for _ in range(2):
        harvest(own, trained)
        assert hold(own)['harvest_evs'] == pytest.approx(1)
    assert sorted(np.concatenate(own.scoring.asked[1:])) == list(range(IMAGES))
    np.testing.assert_allclose(own.state.scores['evs'], own.scoring.truth(trained, 'evs', 2), atol=2e-4)


def test_without_rescoring_harvested_scores_are_taken_as_they_are():
    own = engine({'evs': 1.0, 'loss': 1.0}, harvest=True, rescore=0.0)
    hold(own)
    before = own.state.scores['evs'].copy()
    own.state.training_scores['evs'][:30], own.state.training_scores['loss'][:30] = 7, 8
    facts = hold(own)
    assert facts['scored'] == 0 and len(own.scoring.asked[-1]) == 0
    assert (own.state.scores['evs'][:30] == 7).all() and (own.state.scores['loss'][:30] == 8).all()
    np.testing.assert_array_equal(own.state.scores['evs'][30:], before[30:])
    assert own.state.rows['scored_at'].tolist() == [1] * 30 + [0] * 170


def test_what_warmup_harvested_does_not_replace_the_first_round():
    own = engine({'evs': 1.0}, harvest=True)
    own.state.training_scores['evs'][:] = 5
    assert hold(own)['scored'] == IMAGES and own.state.scores['evs'].max() < 1


# -------------------------------------------------------------------- candidates
def candidates_of(own):
    return np.flatnonzero(own.state.candidates)


def test_a_round_scores_its_candidates_alone_and_coresets_are_drawn_among_them():
    own = engine(policy=Policy(GumbelTopK(), Constraints()), candidates=2, size=60)
    seen = []
    for number in range(4):
        facts = hold(own)
        drawn = candidates_of(own)
        assert facts['candidates'] == facts['scored'] == len(drawn) and own.scoring.asked[-1].tolist() == drawn.tolist()
        assert facts['evs'] == pytest.approx(own.scoring.truth(drawn, 'evs', number).mean(dtype=np.float64))
        assert 60 / 2 < len(drawn) <= 120  # of 120 indices, two of which may show one image
        for epoch in range(3):
            chosen = own.data.positions[own.draw(3 * number + epoch).indices]
            assert np.isin(chosen, drawn).all() and len(own.state.selection.indices) == 60
        importance = own.importance()
        assert np.flatnonzero(np.isfinite(importance)).tolist() == drawn.tolist()
        seen.append(drawn)
    assert len(np.unique(np.concatenate(seen))) > IMAGES * 0.8  # others in each round


def test_candidates_are_a_function_of_seed_and_round():
    def draws(seed, candidates=2):
        own = engine(seed=seed, candidates=candidates, size=60)
        hold(own)
        own.draw(0)
        return own.state.candidates.tobytes(), own.draw_candidates().tobytes()

    assert draws(3) == draws(3) and len({*draws(3), *draws(4)}) == 4
    assert engine(candidates=8, size=60).draw_candidates() is None  # which are all images


def test_of_candidates_a_share_is_scored_anew_and_what_has_no_scores_in_any_case():
    own = engine(rescore=0.25, candidates=2, size=100)
    for _ in range(6):
        before = own.state.rows['scored_at'].copy()
        hold(own)
        drawn, asked = candidates_of(own), own.scoring.asked[-1]
        new = drawn[before[drawn] < 0]
        assert np.isin(new, asked).all() and np.isin(asked, drawn).all()
        assert len(asked) == max(len(new), int(np.ceil(0.25 * len(drawn))))
        assert before[asked].max() <= before[np.setdiff1d(drawn, asked)].min(initial=99)
        own.draw(0)  # whose scores are all known


def test_what_constraints_ask_for_is_among_the_candidates():
    constraints = Constraints(class_floor=2, max_gap=3)
    own = engine(policy=Policy(GumbelTopK(), constraints), candidates=1.5, size=60)
    for number in range(8):
        due = own.state.gaps() + 1 >= 3
        hold(own)
        assert own.state.candidates[due].all() or due.sum() > 90 / 2
        chosen = own.data.positions[own.draw(number).indices]
        assert own.data.labels[chosen].sum(0).min() >= 2


class Labelled(Images):
    """Three classes of 150, 40 and 10 images, one object each."""

    def load_data_list(self):
        labels = np.repeat([0, 1, 2], [150, 40, 10]).tolist()
        return [
            dict(img_path=f'{number}.png', img_id=number, instances=[dict(bbox=[0, 0, 5, 5], bbox_label=label)])
            for number, label in enumerate(labels)
        ]


def test_classes_keep_their_shares_among_candidates_where_the_selector_keeps_them():
    own = engine(
        policy=Policy(ClassBalanced({'type': 'mmacs.GumbelTopK'}), Constraints()),
        data=Labelled(),
        candidates=3,
        size=40,
    )
    labels, counts = np.asarray(own.data.labels.argmax(1)).ravel(), []
    for number in range(10):
        hold(own)
        drawn = np.bincount(labels[own.data.positions], own.state.candidates[own.data.positions])
        counts.append(np.bincount(labels[own.data.positions[own.draw(number).indices]]))
        assert (np.abs(counts[-1] - 40 * drawn / drawn.sum()) < 1).all()  # shares are rounded at random
        assert np.bincount(labels[candidates_of(own)], minlength=3).min() >= 3  # of 10 of the rarest
    np.testing.assert_allclose(np.mean(counts, 0), [30, 8, 2], atol=0.5)


def test_a_rare_class_has_its_floor_among_candidates():
    own = engine(
        policy=Policy(ClassBalanced({'type': 'mmacs.GumbelTopK'}, floor=4), Constraints()),
        data=Labelled(),
        candidates=2,
        size=40,
    )
    hold(own)
    labels = np.asarray(own.data.labels.argmax(1)).ravel()[own.data.positions]
    drawn = np.bincount(labels[own.state.candidates[own.data.positions]])
    assert drawn[2] >= 8  # of 20 indices: twice the floor, so that there is something to choose
    assert min(np.bincount(labels[own.draw(number).indices])[2] for number in range(5)) >= 4


@pytest.mark.parametrize('trim', [0.1, 0.6])
def test_trimming_leaves_out_a_share_of_the_candidates_and_enough_for_the_coreset(trim):
    own = engine(policy=Policy(TopK(), Constraints(trim=trim)), candidates=3, size=60)
    own.state.plan = own.state.plan._replace(candidates=0.2)  # as a budget may have it
    hold(own)
    trimmed = own.excluded()
    assert trimmed.sum() == round(trim * own.state.candidates.sum()) and own.state.candidates[trimmed].all()
    assert np.isnan(own.suspicion()).tolist() == (~own.state.candidates).tolist()
    chosen = own.data.positions[own.draw(0).indices]
    assert not trimmed[chosen].any() and own.state.candidates[chosen].all()


@pytest.mark.parametrize('wrong', [0.2, 0.45])
def test_an_estimated_share_is_of_the_candidates_and_leaves_the_coreset_its_images(wrong):
    own = engine(policy=Policy(TopK(), Constraints(trim='auto')), candidates=1, size=100, data=Images(400))
    errors = np.random.default_rng(0).normal([[0.1], [1.0]], 0.02, (2, len(own.data)))
    errors = np.where(np.arange(len(own.data)) % 100 < 100 * wrong, errors[1], errors[0]) ** 3
    own.scoring.truth = lambda positions, column, number: errors[positions].astype(np.float32)
    hold(own)
    among, trimmed = own.state.candidates, own.excluded()
    assert 100 < among.sum() <= 200 and among[trimmed].all()  # 200 indices, since up to a half may be trimmed
    assert (trimmed & among).sum() == pytest.approx((among & (errors > 0.1)).sum(), abs=1)
    own._undrawn = {}
    facts = own.begin(0).facts
    assert facts['wrong_share'] == trimmed.sum() / among.sum() == pytest.approx(wrong, abs=0.1)
    assert facts['trim_recall'] == trimmed[own.data.noisy & among].mean()


def test_candidates_are_enough_for_the_largest_coreset_of_a_schedule():
    data = TrainingData.read(DistinctImages(RepeatDataset(Images(), 2), []))
    sampler = CoresetSampler(range(400), fraction=dict(type='oscillating', start=0.4, end=0.1), seed=3)
    sampler.plan(8, 10, 10)
    settings = engine().settings
    settings = replace(settings, policy=Policy(TopK(), Constraints(trim=0.2)), cost=Cost(candidates=1.25, force=True))
    own = CoresetEngine(settings, data, GivenScores(data), sampler, end=8, per_unit=sampler.mean_size)
    assert own.state.plan.candidates == 0.5  # 160 of 400 after trimming a fifth of 200
    own.dry_run()
    hold(own)
    for epoch in range(8):
        own._undrawn = own._undrawn or {}
        own.begin(epoch)
        assert len(own.sampler.indices) == sampler.sizes[epoch]
        assert own.state.candidates[own.data.positions[own.sampler.indices]].all()


def test_a_sweep_goes_evenly_through_the_candidates_of_each_round():
    policy = Policy(Sweep(floor=0.25), Constraints())
    own = engine({'evs': 1.0}, policy=policy, normalisation='none', candidates=3, size=40)
    for number in range(3):
        hold(own)
        positions, shown = own.data.positions, np.zeros(400, dtype=int)
        first = own.state.candidates[positions] & (own.state.scores['evs'][positions] > 0.25)
        first &= True if own.state.shown is None else ~own.state.shown  # in earlier rounds
        epochs = np.count_nonzero(first) // 40
        assert epochs > 0
        for epoch in range(epochs):
            chosen = own.draw(10 * number + epoch).indices
            assert own.state.candidates[positions[chosen]].all()
            shown[chosen] += 1
        assert shown.max() == 1 and shown[first].sum() == 40 * epochs


def test_what_candidates_cannot_hold_is_refused_before_anything_is_scored():
    own = engine(policy=Policy(TopK(), Constraints(class_floor=20)), candidates=2, size=30)
    with pytest.raises(MmacsError, match='class_floor=20 needs 60 images'):
        own.dry_run()
    assert len(engine(candidates=2, size=30).dry_run().indices) == 30 and own.state.candidates is None
    gaps = Policy(TopK(), Constraints(max_gap=2))
    with pytest.raises(MmacsError, match='max_gap=2 cannot be met'):  # by 60 of 400, though by 60 of 90 candidates
        engine(policy=gaps, candidates=1.5, size=60).dry_run()


def test_scores_of_training_forwards_take_the_place_of_exact_ones_of_candidates():
    own = engine({'evs': 1.0}, harvest=True, candidates=3, size=100)
    hold(own)
    harvest(own, np.arange(120))
    facts = hold(own)
    assert facts['harvest_evs'] == pytest.approx(1) and facts['scored'] < facts['candidates']
    own.draw(0)


def test_a_run_goes_on_with_its_candidates(monkeypatch):
    monkeypatch.setattr(pricing, 'measure_costs', lambda *arguments: (1e-3, 0.0, 1e-3))

    def run(own, epochs, stop=None):
        shown = {}
        for epoch in epochs:
            if epoch == stop:
                return shown, saved(own.state_dict())
            if own.is_due(epoch):
                own.hold_round(None, epoch)
            own.begin(epoch)
            shown[epoch] = own.sampler.indices.tolist()
        return shown

    def new():
        own = engine(
            policy=Policy(GumbelTopK(), Constraints(trim=0.2)),
            candidates=2,
            size=60,
            rescore=0.5,
            interval=3,
            force=True,
        )
        monkeypatch.setattr(
            own.scoring, 'truth', lambda positions, name, _: np.sin(positions * len(name)) + own.state.round
        )
        return own

    policy = Policy(GumbelTopK(), Constraints(trim=0.2))
    whole = run(new(), range(8))
    for stop in (2, 3, 7):
        _, state = run(new(), range(8), stop)
        resumed = new()
        resumed.load_state_dict(state, stop)
        assert run(resumed, range(stop, 8)) == {epoch: whole[epoch] for epoch in range(stop, 8)}
    plain = engine(policy=policy, size=60, interval=3, force=True)
    plain.load_state_dict(state, 7)  # of a config that has given up candidates: all images from the next round on
    hold(plain)
    assert plain.state.candidates is None and (plain.state.rows['scored_at'] >= 0).all()


# -------------------------------------------------------------------- draws
def test_a_draw_is_a_function_of_seed_number_and_scores():
    def draw(seed, number, rounds=1):
        own = engine(policy=Policy(GumbelTopK(), Constraints(random_share=0.1)), seed=seed, size=50)
        for _ in range(rounds):
            hold(own)
        own.draw(99)  # what was drawn before says nothing
        return own.draw(number).indices.tolist()

    draws = [draw(3, 5), draw(4, 5), draw(3, 6), draw(3, 5, rounds=2)]
    assert draw(3, 5) == draws[0]
    assert len(set(map(tuple, draws))) == 4 and all(len(set(drawn)) == 50 for drawn in draws)


def test_what_cannot_be_chosen_is_refused_before_anything_is_scored():
    policy = Policy(TopK(), Constraints(class_floor=20))
    with pytest.raises(MmacsError, match='class_floor=20 needs 60 images, more than the 30'):
        engine(policy=policy, size=30).dry_run()
    own = engine(policy=policy, size=60)
    assert len(own.dry_run().indices) == 60
    assert own.state.selection is None and own.scoring.asked == []
    assert (
        own.state.round == -1 and (own.state.rows['trained_at'] == -1).all() and np.isnan(own.state.scores['evs']).all()
    )


def test_a_draw_is_noted_for_the_images_behind_it():
    own = engine({'evs': 1.0}, size=20)
    hold(own)
    own.draw(0)
    best = np.sort(np.argsort(-own.importance(), kind='stable')[:10])
    assert own.state.selection.indices.tolist() == [*best, *(best + IMAGES)]
    assert np.flatnonzero(own.state.rows['trained_at'] == 0).tolist() == best.tolist()
    assert own.state.gaps().max() == 0


def test_processes_that_choose_otherwise_stop(monkeypatch):
    own = engine()
    hold(own)
    monkeypatch.setattr(module, 'all_gather_object', lambda mine: [mine, 'another'])
    with pytest.raises(MmacsError, match='processes chose different coresets'):
        own.draw(0)


def test_one_image_and_images_without_objects():
    for size, chosen in ((1, [0]), (2, [0, 1])):
        own = engine(data=Images(1), normalisation='stratified_rank', size=size)
        hold(own)
        assert own.draw(0).indices.tolist() == chosen
    hold(own)
    assert own.importance().tolist() == [0.0]


def test_class_floors_take_objects_as_labels():
    own = engine(policy=Policy(TopK(), Constraints(class_floor=2)), size=6)
    hold(own)
    chosen = own.data.positions[own.draw(0).indices]
    assert own.data.labels[chosen].sum(0).min() >= 2
    own = engine(policy=Policy(ClassBalanced(), Constraints()))
    hold(own)
    groups = class_groups(own.data.labels[own.data.positions])
    counts, chosen = np.bincount(groups), np.bincount(groups[own.draw(0).indices], minlength=groups.max() + 1)
    assert (np.abs(chosen - counts * chosen.sum() / counts.sum()) < 1).all()


# -------------------------------------------------------------------- a run
def test_rounds_and_epochs_of_a_run(monkeypatch):
    schedule = dict(interval=2, warmup=1, rounds=2, full_data_last=1)
    own = engine({'evs': 1.0}, policy=Policy(GumbelTopK(), Constraints()), force=True, **schedule)
    monkeypatch.setattr(pricing, 'measure_costs', lambda *arguments: (1e-3, 0.0, 1e-3))
    shown, reported, to_come = [], [], [own.seconds_to_come()]
    for epoch in range(8):
        if own.is_due(epoch):
            own.hold_round(None, epoch)
            assert own.state.next_round == epoch + 2
            own._round_seconds = 5.0
            to_come.append(own.seconds_to_come())
            own._round_seconds, own.state.progress.selection_seconds = None, 4.0  # as after a resume
            to_come.append(own.seconds_to_come())
        held = own.begin(epoch) if not own.sweeps(epoch) else None
        reported.append(None if held is None else (epoch, own.stays_until(), held.facts['scored']))
        shown.append(None if own.sampler.indices is None else own.sampler.indices.tolist())
    assert shown[0] is None and all(len(set(indices)) == 100 for indices in shown[1:])
    assert len({tuple(indices) for indices in shown[1:7]}) == 6  # drawn anew in each epoch
    assert [found for found in reported if found] == [(1, 3, IMAGES), (3, 7, IMAGES)]
    assert own.state.progress.selection_seconds > 0
    assert to_come == [0, 5, 4, 0, 0]


def clock(kind):
    """Seconds that a faulty clock gives, call after call."""
    ticks = count()
    return {
        'backwards': lambda: 1e6 - 10.0 * next(ticks),
        'still': lambda: 5.0,
        'not a number': lambda: float('nan'),
        'jumping': lambda: [0.0, 1e5, -1e5, float('nan')][next(ticks) % 4],
    }[kind]


@pytest.mark.parametrize('kind', ['backwards', 'still', 'not a number', 'jumping'])
@pytest.mark.parametrize('budget', [None, 0.05])
def test_no_clock_ends_a_run(monkeypatch, kind, budget):
    monkeypatch.setattr(time, 'perf_counter', clock(kind))
    own = engine({'evs': 1.0}, size=40, interval=2)
    own.settings = replace(own.settings, cost=Cost(budget=budget, force=kind == 'jumping'))
    for epoch in range(8):
        if own.is_due(epoch):
            own.hold_round(None, epoch)
        own.begin(epoch)
        own.state.progress.trained_images += 40
    assert own.state.round >= 1 and len(own.sampler.indices) == 40
    progress = own.state.progress
    assert 0 <= progress.selection_seconds < float('inf') and progress.training_seconds == 0


def test_a_slow_round_widens_the_interval_and_says_so_once_per_change(monkeypatch):
    said = []
    monkeypatch.setattr(pricing, 'print_log', lambda text, *_: said.append(text))
    monkeypatch.setattr(pricing, 'measure_costs', lambda *arguments: (1e-3, 0.0, 1e-3))
    own = engine({'evs': 1.0}, size=200, interval=1, end=16)

    def held(epoch, seconds):
        """A round at an epoch, after which the run has spent these seconds on rounds, and 0.6 s per epoch."""
        own.hold_round(None, epoch)
        own.state.progress = replace(own.state.progress, selection_seconds=seconds, training_seconds=0.6 * (epoch + 1))
        own.state.progress.trained_images = 200 * (epoch + 1)

    held(0, 0.2)
    held(1, 100.0)  # it took much longer than foreseen, as the next round finds
    held(2, 100.0)
    assert (own.state.plan.interval, own.state.next_round) == (4, 6)
    held(6, 1.0)
    assert (own.state.plan.interval, own.state.next_round) == (4, 10)
    held(10, 1.0)
    assert (own.state.plan.interval, own.state.next_round) == (1, 11)
    changes = [text for text in said if 'apart' in text]
    assert [text.split(':')[0] for text in changes] == [
        'Rounds are 4 apart from now on, not 1',
        'Rounds are 1 apart from now on, not 4',
    ]


def test_what_tells_no_image_from_another_is_said_once_per_round(monkeypatch):
    said = []
    monkeypatch.setattr(module, 'print_log', lambda text, *_: said.append(text))
    own = engine({'evs': 1.0, 'ds': 1.0}, policy=Policy(GumbelTopK(), Constraints()), force=True, interval=2)
    monkeypatch.setattr(pricing, 'measure_costs', lambda *arguments: (1e-3, 0.0, 1e-3))
    monkeypatch.setattr(own.scoring, 'truth', lambda positions, column, number: RELEVANT[column][positions])
    for epoch in range(4):
        if own.is_due(epoch):
            own.hold_round(None, epoch)
        own.begin(epoch)
    said = [text for text in said if text.startswith('Round')]
    assert said == [f'Round {number}: the same for all images, and so left out: ds (0.25).' for number in (0, 1)]


@pytest.mark.parametrize('selector', [TopK(), ClassBalanced()])
def test_top_k_that_buys_one_class_is_warned_of_once_per_round(monkeypatch, selector):
    said = []
    monkeypatch.setattr(module, 'print_log', lambda text, *_: said.append(text))
    constraints = Constraints(random_share=0.1)  # so that there is a draw in each epoch
    own = engine({'evs': 1.0}, policy=Policy(selector, constraints), size=60, force=True, interval=2)
    of_one_class = (np.arange(IMAGES) % 3 == 0).astype(np.float32)
    monkeypatch.setattr(own.scoring, 'truth', lambda positions, column, number: of_one_class[positions])
    for epoch in range(4):
        if own.is_due(epoch):
            own.hold_round(None, epoch)
        own.begin(epoch)
    said = [text for text in said if 'class whip-saw' in text]
    assert [text[:8] for text in said] == (['Round 0:', 'Round 1:'] if isinstance(selector, TopK) else [])


def test_where_all_images_are_equal_each_round_is_a_uniform_draw_of_the_seed(monkeypatch):
    def rounds(seed):
        own = engine({'ds': 1.0}, seed=seed, size=40, force=True, interval=1)
        monkeypatch.setattr(own.scoring, 'truth', lambda positions, column, number: RELEVANT[column][positions])
        for epoch in range(6):
            own.hold_round(None, epoch)
            own.begin(epoch)
            yield frozenset(own.sampler.indices.tolist())

    said = []
    monkeypatch.setattr(module, 'print_log', lambda text, *_: said.append(text))
    monkeypatch.setattr(pricing, 'measure_costs', lambda *arguments: (1e-3, 0.0, 1e-3))
    drawn = [*rounds(3), *rounds(4)]
    assert len(set(drawn)) == 12 and drawn[:6] == [*rounds(3)]
    assert 'Round 5: all images are equally important: chance alone chooses.' in said
    shown = np.bincount([index for indices in drawn for index in indices], minlength=400)
    assert abs(shown[:200].sum() - 240) < 4 * np.sqrt(480 / 4)  # neither half of the file is favoured


def test_costs_are_at_full_resolution_and_the_step_is_measured_once_there_was_training(monkeypatch):
    seen = []

    def look_ahead(cost, schedule, extent, costs, plan, *others, original=pricing.look_ahead):
        seen.append(costs)
        return original(cost, schedule, extent, costs, plan, *others)

    monkeypatch.setattr(pricing, 'look_ahead', look_ahead)
    own = engine()
    own.state.plan, own._exact.proxy = own.state.plan._replace(resolution=0.5), Proxy(0.5)
    monkeypatch.setattr(pricing, 'measure_costs', lambda *arguments: (0.01, 0.02, 0.005))
    own._pricing.measure(own.scoring, None, own.teacher, 0, time.perf_counter())
    own.state.progress.training_seconds, own.state.progress.trained_images = 6.0, 300
    own.hold_round(None, 0)  # which measures again
    own.hold_round(None, 4)
    assert seen[:2] == [Costs(0.04, 0.08, None, 0.02), Costs(0.04, 0.08, 0.02, 0.02)]
    assert (seen[2].step, seen[2].forward) == (0.02, None) and seen[2].score > 0


def test_a_resumed_run_has_the_plan_of_its_config_unless_costs_changed_it():
    def state_of(own, plan=None, number=1):
        own.state.round, own.state.next_round, own.state.plan = number, 20, plan or own.state.plan
        return own.state_dict()

    own = engine(rescore=0.5, interval=4)
    widened = own.state.plan._replace(interval=16)
    own.load_state_dict(state_of(engine(rescore=0.5, interval=4), widened), 8)
    assert (own.state.plan, own.state.next_round) == (widened, 20)
    own = engine(rescore=0.5, interval=4)
    asked = own.state.plan
    own.load_state_dict(state_of(engine(rescore=0.2, interval=10)), 8)  # whose last round was at 10
    assert (own.state.plan, own.state.next_round) == (asked, 14)
    own = engine(interval=4, warmup=3)
    own.load_state_dict(state_of(engine(interval=4, warmup=7), number=-1), 1)
    assert own.state.next_round == 3
    old = state_of(engine(rescore=0.2, interval=10))
    del old['asked']  # as checkpoints of 0.1 have it
    own = engine(rescore=0.5, interval=4)
    own.load_state_dict(old, 8)
    assert (own.state.plan, own.state.next_round) == (asked, 14)


def test_a_resumed_run_whose_checkpoint_has_a_shorter_plan_keeps_what_costs_changed():
    def fast():
        own = engine(rescore=0.5, interval=4)
        own._asked = own.state.plan = own._asked._replace(precision='bfloat16')
        return own

    old = engine(rescore=0.5, interval=4)
    old.state.round, old.state.next_round, old.state.plan = 1, 20, Plan(16, 0.5, 0.75)
    old = old.state_dict()
    old['plan'], old['asked'] = old['plan'][:3], old['asked'][:3]  # before candidates and precision were a part of it
    own = fast()
    own.load_state_dict(old, 8)
    assert (own.state.plan, own.state.next_round) == (Plan(16, 0.5, 0.75, 1.0, 'bfloat16'), 20)


def test_a_resumed_run_keeps_the_seed_of_its_checkpoint_and_says_so(monkeypatch):
    said = []
    monkeypatch.setattr(module, 'print_log', lambda text, *_: said.append(text))
    for seed in (3, 4):
        own = engine(seed=seed)
        own.load_state_dict(engine(seed=3).state_dict(), 0)
        assert own.sampler.seed == 3
    assert said == ["The run goes on with the seed 3 of the checkpoint's coreset, not 4."]


# -------------------------------------------------------------------- checkpoints
def saved(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize('selector', [TopK(), GumbelTopK()])
def test_a_resumed_engine_goes_on_as_if_nothing_had_been(selector):
    def fresh(seed):
        policy = Policy(selector, Constraints(max_gap=9))
        return engine(harvest=True, policy=policy, seed=seed, size=60, rescore=0.4)

    first, second = fresh(3), fresh(11)
    for number in range(2):
        hold(first, 0.7)
        first.draw(number)
    first.state.training_scores['evs'][:50] = 0.3
    second.load_state_dict(saved(first.state_dict()), 0)
    second.scoring.asked = list(first.scoring.asked)
    assert second.state.selection.indices.tolist() == first.state.selection.indices.tolist()
    assert second.state.selection.indices.dtype == np.int64
    np.testing.assert_array_equal(second.importance(), first.importance())
    for number in range(2, 4):
        assert hold(first, 0.4) == hold(second, 0.4)
        assert first.draw(number).indices.tolist() == second.draw(number).indices.tolist()
    one, other = first.state_dict(), second.state_dict()
    assert one.keys() == other.keys() and one['seed'] == other['seed'] == 3
    assert torch.equal(one['rows'], other['rows'])


def scheduled(policy=None, planned=True, **schedule):
    own = engine({'evs': 1.0}, policy=policy, **schedule)
    sampler = CoresetSampler(range(400), dict(type='oscillating', start=0.4, end=0.1), seed=3)
    if planned:
        sampler.plan(8, 10, 10)
    return CoresetEngine(own.settings, own.data, own.scoring, sampler, end=8, per_unit=sampler.mean_size)


def test_coresets_follow_a_schedule_of_the_fraction():
    own, resumed = scheduled(), scheduled()
    own.dry_run()
    hold(own)
    own._undrawn = {'scored': 1.0}
    found = []
    for epoch in range(8):
        held = own.begin(epoch)
        assert (held is not None) == (epoch == 0)
        found.append(own.sampler.epoch_indices())
        assert len(own.sampler) == len(found[-1]) == (160 if epoch % 2 == 0 else 40)
        chosen = own.data.positions[found[-1]]
        assert len(chosen) >= 2 and own.importance()[chosen].min() >= np.delete(own.importance(), chosen).max()
        assert held is None or held.facts['fraction'] == 0.4
        if epoch == 2:
            resumed.load_state_dict(saved(own.state_dict()), 3)
        elif epoch > 2:
            resumed.begin(epoch)
            assert resumed.sampler.epoch_indices().tolist() == found[-1].tolist()
    assert sum(map(len, found)) == 8 * 100
    assert own.extent.trained_from(0) == 800 and own.extent.trained_from(7) == 40
    assert scheduled(planned=False).extent.trained_from(7) == 100


def test_a_schedule_that_constraints_or_a_last_sweep_do_not_fit_is_refused_at_once():
    with pytest.raises(MmacsError, match='full_data_last goes evenly through all data in epochs of one size'):
        scheduled(full_data_last=2)
    with pytest.raises(MmacsError, match='fewer than the 160 of the coreset'):
        scheduled(Policy(TopK(), Constraints(trim=0.7))).dry_run()
    with pytest.raises(MmacsError, match='more than the 40 of the coreset'):
        scheduled(Policy(TopK(), Constraints(class_floor=20))).dry_run()


@pytest.mark.parametrize('constraints', [Constraints(), Constraints(trim=0.2), Constraints(random_share=0.2)])
def test_a_sweep_goes_on_over_rounds_and_in_a_resumed_run(constraints):
    def fresh():
        return engine({'evs': 1.0}, policy=Policy(Sweep(0.5), constraints), normalisation='none', size=60)

    first, second = fresh(), fresh()
    for number in range(7):
        if number in (0, 3):
            hold(first)
        before = np.zeros(400, dtype=bool) if first.state.shown is None else first.state.shown
        chosen = first.draw(number).indices
        if number == 4:
            second.load_state_dict(saved(first.state_dict()), 0)
            second.scoring.asked = list(first.scoring.asked)
        elif number > 4:
            assert second.draw(number).indices.tolist() == chosen.tolist()
            assert second.state.shown.tolist() == first.state.shown.tolist()
        excluded = first.excluded()
        free = np.ones(400, dtype=bool) if excluded is None else ~excluded[first.data.positions]
        waiting = (first.importance() > 0.5)[first.data.positions] & ~before & free
        if not constraints.random_share:
            assert waiting[chosen].sum() == min(60, waiting.sum()) > 0
        ends = waiting.sum() == waiting[chosen].sum()
        assert (first.state.shown & free & ~np.isin(np.arange(400), chosen)).any() != ends or number == 0
    assert 'shown' not in engine().state_dict()


def test_probabilities_travel_too():
    own = engine(policy=Policy(GumbelTopK(), Constraints()))
    assert 'indices' not in own.state_dict()
    hold(own)
    own.draw(0)
    other = engine(policy=Policy(GumbelTopK(), Constraints()))
    other.load_state_dict(saved(own.state_dict()), 0)
    np.testing.assert_array_equal(other.state.selection.probabilities, own.state.selection.probabilities)


@pytest.mark.parametrize(
    ('data', 'weights', 'message'),
    [
        (Images(199), None, 'had 200 images when the checkpoint was written and now has 199'),
        (Images(shift=1), None, 'names, order or annotations of the training images are not those'),
        (Images(), {'evs': 1.0}, r"the score columns \['ds', 'evs'\], the config needs \['evs'\]"),
    ],
)
def test_a_checkpoint_of_other_images_or_columns_is_refused(data, weights, message):
    own = engine()
    hold(own)
    with pytest.raises(MmacsError, match=message):
        engine(weights, data=data).load_state_dict(own.state_dict(), 0)


def test_a_run_that_trimmed_by_the_teacher_alone_before_its_scores_were_read_goes_on(monkeypatch):
    trim = Policy(Random(), Constraints(trim=0.2))
    before = engine({'teacher_error': 1.0}, policy=trim)
    assert 'ds' in before.state.scores
    hold(before)
    chosen = before.draw(0).indices
    monkeypatch.setattr(Given, 'kept_columns', frozenset({'teacher_error'}))
    now = engine({'teacher_error': 1.0}, policy=trim)
    now.load_state_dict(saved(before.state_dict()), 0)
    assert now.state.scores.keys() == {'teacher_error'}
    np.testing.assert_array_equal(now.state.scores['teacher_error'], before.state.scores['teacher_error'])
    np.testing.assert_array_equal(now.sampler.indices, chosen)


def test_a_checkpoint_of_other_pixels_is_refused_and_one_that_says_nothing_of_them_is_not():
    def of(contents):
        own = engine()
        own.data.contents = contents
        return own

    own = of(Contents('a' * 32, 'b' * 32))
    hold(own)
    state = own.state_dict()
    of(Contents('a' * 32, 'of another version of a library')).load_state_dict(state, 0)
    of(None).load_state_dict(state, 0)  # nothing needs the teacher
    with pytest.raises(MmacsError, match='files of training images have other contents than when the checkpoint'):
        of(Contents('c' * 32, 'b' * 32)).load_state_dict(state, 0)
    del state['contents']
    of(Contents('c' * 32, 'b' * 32)).load_state_dict(state, 0)


# -------------------------------------------------------------------- what is reported
class Kept(GivenScores):
    """Scores of columns that are given, for which each image must have its teacher's outputs."""

    columns = {}

    def __init__(self, data, *arguments):
        super().__init__(data)

    def teacher_outputs(self, scorer, teacher, columns, positions, write):
        for start in range(0, len(positions), 3):
            batch = positions[start : start + 3]
            write(batch, {'teacher_error': torch.from_numpy(batch)})

    def scores(self, scorer, model, positions, columns, teacher_outputs):
        if not columns:  # a forward pass alone
            return {}
        self.asked.append(positions)
        assert teacher_outputs(positions)['teacher_error'].tolist() == positions.tolist()
        return {name: self.columns[name][positions] for name in columns}


@pytest.mark.parametrize('normalisation', ['rank', 'stratified_rank'])
def test_a_proxy_is_one_for_exact_scores_and_less_for_others(monkeypatch, normalisation):
    own = engine(normalisation=normalisation, size=120)
    hold(own)
    own._exact, own.teacher = Kept(own.data), SimpleNamespace(model=lambda: 'teacher')
    scores = own.state.scores
    monkeypatch.setattr(Kept, 'columns', scores)
    facts = own.compare_proxy(None, num_images=50)
    assert facts == {'proxy_evs': pytest.approx(1), 'proxy_ds': pytest.approx(1), 'proxy_overlap': 1}
    monkeypatch.setattr(Kept, 'columns', {'evs': np.ones(IMAGES), 'ds': -scores['ds']})
    facts = own.compare_proxy(None)
    assert facts['proxy_evs'] == 0 and facts['proxy_ds'] == pytest.approx(-1)
    assert facts['proxy_overlap'] < 0.7


@pytest.mark.parametrize(('images', 'asked'), [(200, [4, 12]), (7, [4, 3]), (1, [1, 1])])
def test_costs_are_measured_on_a_few_images_that_need_not_be_many(monkeypatch, images, asked):
    scoring, columns = Kept(engine(data=Images(images)).data), ['evs', 'ds']
    monkeypatch.setattr(Kept, 'columns', dict.fromkeys(columns, np.zeros(images)))
    assert min(measure_costs(scoring, Given(), columns, None, 'teacher')) > 0
    assert [len(positions) for positions in scoring.asked] == asked
    monkeypatch.setattr(Kept, 'teacher_outputs', None)  # which known ones make needless
    measure_costs(scoring, Given(), columns, None, None, lambda rows: {'teacher_error': torch.from_numpy(rows)})


def test_a_round_on_disk_says_what_was_known_and_chosen(tmp_path):
    own = engine(policy=Policy(TopK(), Constraints(trim=0.1)), size=30)
    hold(own)
    own.draw(0)
    held = Round({'seconds': 0.5}, np.full(IMAGES, -1, np.int32))
    write_round(tmp_path / 'round_000.npz', own, held, epoch=4, iteration=17)
    with np.load(tmp_path / 'round_000.npz') as found:
        assert found['indices'].tolist() == own.state.selection.indices.tolist()
        assert found['positions'].tolist() == [*range(IMAGES)] * 2
        np.testing.assert_array_equal(found['importance'], own.importance())
        for name in ('evs', 'ds', 'teacher_error'):
            np.testing.assert_array_equal(found[f'score_{name}'], own.state.scores[name])
        assert np.flatnonzero(found['noisy']).tolist() == list(range(0, IMAGES, 10))
        assert found['trimmed'].sum() == 20 and found['suspicion'][found['trimmed']].min() > 0.89
        assert not np.isin(np.flatnonzero(found['trimmed']), own.data.positions[found['indices']]).any()
        assert (found['epoch'], found['iteration'], found['seconds'], found['beta']) == (4, 17, 0.5, 0.5)
    with np.load(tmp_path / 'images.npz') as images:
        assert images['image_ids'].tolist() == [*range(IMAGES)]
    assert sorted(file.name for file in tmp_path.iterdir()) == ['images.npz', 'round_000.npz']
    remove_rounds(tmp_path, after=0)
    assert len([*tmp_path.iterdir()]) == 2
    remove_rounds(tmp_path, after=-1)  # another run's, perhaps on other images
    assert not [*tmp_path.iterdir()]
