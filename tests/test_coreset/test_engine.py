"""Rounds and draws on scores that are given: no model, no images."""

import io

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, RepeatDataset

from mmacs.coreset import engine as module
from mmacs.coreset.data import ScoringView
from mmacs.coreset.engine import CoresetEngine
from mmacs.coreset.round_record import write_round
from mmacs.coreset.scoring.scorers import Scorer
from mmacs.coreset.scoring.scoring_pass import ScoringPass
from mmacs.coreset.selection.constraints import Constraints
from mmacs.coreset.selection.importance import Importance
from mmacs.coreset.selection.normalisation import MAX_STRATA, count_strata
from mmacs.coreset.selection.policy import Policy
from mmacs.coreset.selection.selectors import ClassBalanced, GumbelTopK, TopK
from mmacs.utils.errors import MmacsError

IMAGES = 200


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

    def __init__(self, view):
        super().__init__(view, batch_size=4)
        self.asked = []

    def truth(self, positions, column, number):
        every = np.random.default_rng([len(column), number]).random(len(self.view))
        return every[positions].astype(np.float32)

    def scores(self, scorer, model, positions, columns, teacher_outputs):
        self.asked.append(positions)
        return {name: self.truth(positions, name, len(self.asked) - 1) for name in columns}


def engine(weights=None, harvest=False, policy=None, normalisation='rank', data=None, seed=3):
    view = ScoringView(RepeatDataset(data or Images(), 2), [])
    importance = Importance(weights or {'evs': 'beta', 'ds': '1 - beta'}, normalisation=normalisation)
    own = CoresetEngine(GivenScores(view), Given(), importance, policy or Policy(TopK(), Constraints()), harvest)
    own.seed = seed
    return own


def hold(own, beta=0.5):
    return own.hold_round(None, beta, None)


# -------------------------------------------------------------------- rounds
def test_a_round_scores_all_images_and_mixes_them():
    own = engine()
    facts = hold(own, beta=0.25)
    evs, ds = (own.scoring.truth(np.arange(IMAGES), name, 0) for name in ('evs', 'ds'))
    assert facts == {'scored': IMAGES, 'evs': pytest.approx(evs.mean()), 'ds': pytest.approx(ds.mean())}
    ranks = [(np.argsort(np.argsort(column)) + 0.5) / IMAGES for column in (evs, ds)]
    np.testing.assert_allclose(own.importance(), 0.25 * ranks[0] + 0.75 * ranks[1], atol=0.01)  # but for ties
    assert own.ledger.round == 0 and own.beta == 0.25 and own.needs_teacher


def test_later_rounds_score_a_share_stalest_first():
    own = engine()
    own.rescore = 0.3
    for _ in range(5):
        hold(own)
    first, *others = own.scoring.asked
    assert len(first) == IMAGES and [len(asked) for asked in others] == [60] * 4
    assert len(np.unique(np.concatenate(others[:3]))) == 180
    assert set(range(IMAGES)) == set(np.concatenate(others))
    assert np.bincount(own.ledger.scored_at, minlength=5).tolist() == [0, 20, 60, 60, 60]


def test_scores_of_different_age_are_ranked_apart():
    own = engine()
    own.rescore = 0.5
    hold(own)
    hold(own)
    young = own.ledger.scored_at == 1
    own.ledger.scores['evs'][young] += 100  # a model of another age may score everything higher
    own.beta = 1.0
    importance = own.importance()
    for cohort in (young, ~young):
        np.testing.assert_allclose(np.sort(importance[cohort]), (np.arange(100) + 0.5) / 100)
    own.draw(100, 0)
    chosen = own.view.positions[own.selection.indices]
    assert young[chosen].mean() == pytest.approx(0.5, abs=0.02)


def test_strata_are_formed_among_scores_of_one_age():
    own = engine(normalisation='stratified_rank')
    hold(own)
    np.testing.assert_array_equal(own._groups(), count_strata(own.view.object_counts))
    own.rescore = 0.5
    hold(own)
    groups, counts = own._groups(), own.view.object_counts
    for age in (0, 1):
        members = own.ledger.scored_at == age
        np.testing.assert_array_equal(groups[members] - age * MAX_STRATA, count_strata(counts[members]))


def test_a_score_that_is_not_finite_stops_the_draw():
    own = engine()
    hold(own)
    own.ledger.scores['ds'][7] = np.inf
    with pytest.raises(MmacsError, match='1 ds scores are not finite, the first is that of image 7'):
        own.draw(10, 0)


def test_derived_and_trimming_columns_are_scored_for_those_who_need_them():
    own = engine({'forgetting': 1.0})
    assert own.columns == ['correct'] and not own.needs_teacher
    hold(own)
    assert own.importance().tolist() == [0.5] * IMAGES  # nothing is forgotten yet
    own = engine({'evs': 1.0}, policy=Policy(TopK(), Constraints(), trim=0.1))
    assert own.columns == ['evs', 'teacher_error', 'ds'] and own.needs_teacher


# -------------------------------------------------------------------- harvest
def harvest(own, positions, slope=0.5, intercept=0.1):
    """Training forwards that order the images as the next round's exact scores do, on another scale."""
    number = len(own.scoring.asked)
    for name in own.training_columns:
        truth = own.scoring.truth(np.arange(IMAGES), name, number)
        own.ledger.harvested[name][positions] = slope * truth[positions] + intercept


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
    np.testing.assert_allclose(own.ledger.scores['evs'], expected, atol=2e-4)
    np.testing.assert_array_equal(own.ledger.scores['evs'][asked], expected[asked])  # exact ones stay exact
    assert (own.ledger.scored_at == 1).all() and np.isnan(own.ledger.harvested['evs']).all()


@pytest.mark.parametrize('slope', [-0.5, 0.0])
def test_harvested_scores_that_say_something_else_are_dropped(slope):
    own = engine({'evs': 1.0}, harvest=True)
    hold(own)
    before = own.ledger.scores['evs'].copy()
    harvest(own, np.arange(100), slope)
    hold(own)
    rest = np.setdiff1d(np.arange(IMAGES), own.scoring.asked[-1])
    assert len(rest) == 68
    np.testing.assert_array_equal(own.ledger.scores['evs'][rest], before[rest])
    assert (own.ledger.scored_at[rest] == 0).all() and np.isnan(own.ledger.harvested['evs']).all()
    hold(own)
    assert np.isin(rest, own.scoring.asked[-1]).all()


def test_with_a_small_share_there_are_images_to_align_with_nevertheless():
    own = engine({'evs': 1.0}, harvest=True)
    own.rescore = 0.1
    hold(own)
    for number in range(1, 4):
        harvest(own, np.arange(100))
        facts = hold(own)
        assert facts['harvest_evs'] == pytest.approx(1)
        expected = own.scoring.truth(np.arange(100), 'evs', number)
        np.testing.assert_allclose(own.ledger.scores['evs'][:100], expected, atol=2e-4)
        assert len(own.scoring.asked[-1]) <= 20 + 32


def test_columns_that_training_cannot_give_keep_images_stale():
    # or an image that is always trained on would never have its disagreement measured again
    own = engine(harvest=True)
    assert own.training_columns == ['evs'] and own.columns == ['evs', 'ds']
    own.rescore = 0.5
    hold(own)
    trained = np.arange(IMAGES)
    for _ in range(2):
        harvest(own, trained)
        assert hold(own)['harvest_evs'] == pytest.approx(1)
    assert sorted(np.concatenate(own.scoring.asked[1:])) == list(range(IMAGES))
    np.testing.assert_allclose(own.ledger.scores['evs'], own.scoring.truth(trained, 'evs', 2), atol=2e-4)


def test_without_rescoring_harvested_scores_are_taken_as_they_are():
    own = engine({'evs': 1.0, 'loss': 1.0}, harvest=True)
    own.rescore = 0.0
    hold(own)
    before = own.ledger.scores['evs'].copy()
    own.ledger.harvested['evs'][:30], own.ledger.harvested['loss'][:30] = 7, 8
    facts = hold(own)
    assert facts['scored'] == 0 and len(own.scoring.asked[-1]) == 0
    assert (own.ledger.scores['evs'][:30] == 7).all() and (own.ledger.scores['loss'][:30] == 8).all()
    np.testing.assert_array_equal(own.ledger.scores['evs'][30:], before[30:])
    assert own.ledger.scored_at.tolist() == [1] * 30 + [0] * 170


def test_what_warmup_harvested_does_not_replace_the_first_round():
    own = engine({'evs': 1.0}, harvest=True)
    own.ledger.harvested['evs'][:] = 5
    assert hold(own)['scored'] == IMAGES and own.ledger.scores['evs'].max() < 1


def test_harvested_batches_are_those_of_all_processes(monkeypatch):
    own = engine(harvest=True)
    others = {torch.int64: torch.tensor([9, 2]), torch.float32: torch.tensor([[0.9], [0.2]])}
    monkeypatch.setattr(module, 'gather_rows', lambda mine: torch.cat([mine, others[mine.dtype]]))
    own.harvested(np.array([4, 4, 1]), torch.tensor([0.3, 0.4, 0.1], dtype=torch.bfloat16), [], None)
    found = own.ledger.harvested['evs']
    np.testing.assert_allclose(found[[1, 2, 4, 9]], [0.1, 0.2, 0.4, 0.9], rtol=0.01)
    assert np.isfinite(found).sum() == 4


# -------------------------------------------------------------------- draws
def test_a_draw_is_a_function_of_seed_number_and_scores():
    def draw(seed, number, rounds=1):
        own = engine(policy=Policy(GumbelTopK(), Constraints(random_share=0.1)), seed=seed)
        for _ in range(rounds):
            hold(own)
        own.draw(50, 99)  # what was drawn before says nothing
        return own.draw(50, number).indices.tolist()

    draws = [draw(3, 5), draw(4, 5), draw(3, 6), draw(3, 5, rounds=2)]
    assert draw(3, 5) == draws[0]
    assert len(set(map(tuple, draws))) == 4 and all(len(set(drawn)) == 50 for drawn in draws)


def test_what_cannot_be_chosen_is_refused_before_anything_is_scored():
    own = engine(policy=Policy(TopK(), Constraints(class_floor=20)))
    with pytest.raises(MmacsError, match='class_floor=20 needs 60 images, more than the 30'):
        own.dry_run(30)
    assert len(own.dry_run(60).indices) == 60
    assert own.selection is None and own.scoring.asked == []
    assert own.ledger.round == -1 and (own.ledger.trained_at == -1).all() and np.isnan(own.ledger.scores['evs']).all()


def test_a_draw_is_noted_for_the_images_behind_it():
    own = engine({'evs': 1.0})
    hold(own)
    own.draw(20, 0)
    best = np.sort(np.argsort(-own.importance(), kind='stable')[:10])
    assert own.selection.indices.tolist() == [*best, *(best + IMAGES)]
    assert np.flatnonzero(own.ledger.trained_at == 0).tolist() == best.tolist()
    assert own.ledger.gaps().max() == 0


def test_processes_that_choose_otherwise_stop(monkeypatch):
    own = engine()
    hold(own)
    monkeypatch.setattr(module, 'all_gather_object', lambda mine: [mine, 'another'])
    with pytest.raises(MmacsError, match='processes chose different coresets'):
        own.draw(10, 0)


def test_one_image_and_images_without_objects():
    own = engine(data=Images(1), normalisation='stratified_rank')
    hold(own)
    assert own.draw(1, 0).indices.tolist() == [0] and own.draw(2, 0).indices.tolist() == [0, 1]
    hold(own)
    assert own.importance().tolist() == [0.5]


def test_class_floors_take_objects_as_labels():
    own = engine(policy=Policy(TopK(), Constraints(class_floor=2)))
    hold(own)
    chosen = own.view.positions[own.draw(6, 0).indices]
    assert own.view.labels[chosen].sum(0).min() >= 2
    own = engine(policy=Policy(ClassBalanced(), Constraints()))
    hold(own)
    with pytest.raises(MmacsError, match='one label'):
        own.draw(6, 0)


# -------------------------------------------------------------------- checkpoints
def saved(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize('selector', [TopK(), GumbelTopK()])
def test_a_resumed_engine_goes_on_as_if_nothing_had_been(selector):
    def fresh(seed):
        own = engine(harvest=True, policy=Policy(selector, Constraints(max_gap=9)), seed=seed)
        own.rescore = 0.4
        return own

    first, second = fresh(3), fresh(11)
    for number in range(2):
        hold(first, 0.7)
        first.draw(60, number)
    first.ledger.harvested['evs'][:50] = 0.3
    second.load_state_dict(saved(first.state_dict()))
    second.scoring.asked = list(first.scoring.asked)
    assert second.selection.indices.tolist() == first.selection.indices.tolist()
    assert second.selection.indices.dtype == np.int64
    np.testing.assert_array_equal(second.importance(), first.importance())
    for number in range(2, 4):
        assert hold(first, 0.4) == hold(second, 0.4)
        assert first.draw(60, number).indices.tolist() == second.draw(60, number).indices.tolist()
    one, other = first.state_dict(), second.state_dict()
    assert one.keys() == other.keys()
    for name, tensor in one['ledger'].items():
        np.testing.assert_array_equal(tensor.numpy(), other['ledger'][name].numpy(), name)


def test_probabilities_travel_too():
    own = engine(policy=Policy(GumbelTopK(), Constraints()))
    assert 'indices' not in own.state_dict()
    hold(own)
    own.draw(60, 0)
    other = engine(policy=Policy(GumbelTopK(), Constraints()))
    other.load_state_dict(saved(own.state_dict()))
    np.testing.assert_array_equal(other.selection.probabilities, own.selection.probabilities)


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
        engine(weights, data=data).load_state_dict(own.state_dict())


# -------------------------------------------------------------------- what is reported
class Kept(GivenScores):
    """Scores of columns that are given, for which each image must have its teacher's outputs."""

    columns = {}

    def __init__(self, view, *arguments):
        super().__init__(view)

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
def test_fidelity_is_one_for_exact_scores_and_less_for_others(monkeypatch, normalisation):
    own = engine(normalisation=normalisation)
    hold(own)
    monkeypatch.setattr(module, 'ScoringPass', Kept)
    scores = own.ledger.scores
    monkeypatch.setattr(Kept, 'columns', scores)
    facts = own.compare_proxy(None, 'teacher', 0.3, num_images=50)
    assert facts == {'proxy_evs': pytest.approx(1), 'proxy_ds': pytest.approx(1), 'proxy_overlap': 1}
    monkeypatch.setattr(Kept, 'columns', {'evs': np.ones(IMAGES), 'ds': -scores['ds']})
    facts = own.compare_proxy(None, 'teacher', 0.3)
    assert facts['proxy_evs'] == 0 and facts['proxy_ds'] == pytest.approx(-1)
    assert facts['proxy_overlap'] < 0.7


@pytest.mark.parametrize(('images', 'asked'), [(200, [4, 12]), (7, [4, 3]), (1, [1, 1])])
def test_costs_are_measured_on_a_few_images_that_need_not_be_many(monkeypatch, images, asked):
    own = engine(data=Images(images))
    own.scoring = Kept(own.view)
    monkeypatch.setattr(Kept, 'columns', dict.fromkeys(own.columns, np.zeros(images)))
    assert min(own.measure(None, 'teacher')) > 0
    assert [len(positions) for positions in own.scoring.asked] == asked
    monkeypatch.setattr(Kept, 'teacher_outputs', None)  # which known ones make needless
    own.measure(None, 'teacher', lambda rows: {'teacher_error': torch.from_numpy(rows)})
    assert own.ledger.round == -1 and np.isnan(own.ledger.scores['evs']).all()


def test_a_round_on_disk_says_what_was_known_and_chosen(tmp_path):
    own = engine(policy=Policy(TopK(), Constraints(), trim=0.1))
    hold(own)
    own.draw(30, 0)
    write_round(tmp_path / 'round_000.npz', own, np.full(IMAGES, -1, np.int32), epoch=4, iteration=17, seconds=0.5)
    with np.load(tmp_path / 'round_000.npz') as found:
        assert found['indices'].tolist() == own.selection.indices.tolist()
        assert found['positions'].tolist() == [*range(IMAGES)] * 2 and found['image_ids'].tolist() == [*range(IMAGES)]
        np.testing.assert_array_equal(found['importance'], own.importance())
        for name in ('evs', 'ds', 'teacher_error'):
            np.testing.assert_array_equal(found[f'score_{name}'], own.ledger.scores[name])
        assert np.flatnonzero(found['noisy']).tolist() == list(range(0, IMAGES, 10))
        assert found['trimmed'].sum() == 20 and found['suspicion'][found['trimmed']].min() > 0.89
        assert not np.isin(np.flatnonzero(found['trimmed']), own.view.positions[found['indices']]).any()
        assert (found['epoch'], found['iteration'], found['seconds'], found['beta']) == (4, 17, 0.5, 0.5)
    assert [file.name for file in tmp_path.iterdir()] == ['round_000.npz']
