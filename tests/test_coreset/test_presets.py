"""What the names of presets stand for, and how a config changes them."""

from dataclasses import replace

import pytest

from mmacs.coreset import presets
from mmacs.coreset.scoring.scorers import ClassificationScorer, DenseDetectionScorer, Scorer
from mmacs.coreset.selection.constraints import Constraints
from mmacs.coreset.selection.selectors import ClassBalanced, GumbelTopK, TopK
from mmacs.coreset.settings import MAX_WEIGHT, CoresetSettings
from mmacs.registry import SCORERS
from mmacs.utils.errors import MmacsError

SCORER = {'classifier': dict(type='ClassificationScorer'), 'detector': dict(type='DenseDetectionScorer')}
ALL = [(kind, name) for kind in SCORER for name in presets.names(kind)]


@pytest.mark.parametrize(('kind', 'name'), ALL)
def test_every_preset_of_a_kind_is_one_that_its_scorer_can_have(kind, name):
    assert presets.explain(name).startswith(f'Preset {name!r}: ')
    groups = presets.preset(name, kind)
    if presets.redraws(name) is not None:
        assert groups == {}
        return
    settings = CoresetSettings.read(SCORER[kind], preset=name).over(16)
    assert set(settings.scored_columns) <= set(settings.scorer.columns)
    assert settings.importance.weights == groups['importance']['weights']
    assert isinstance(settings.schedule.interval, int)


@pytest.mark.parametrize('kind', SCORER)
def test_the_default_is_a_mild_draw_within_classes_and_the_papers_method_top_k(kind):
    default, paper, code = (CoresetSettings.read(SCORER[kind], preset=name) for name in ('mmacs', 'acs', 'acs-code'))
    assert isinstance(default.policy.selector, ClassBalanced)
    assert isinstance(default.policy.selector.selector, GumbelTopK)
    assert default.importance.weights == {'reducible_error': 'beta', 'ds': '1 - beta'}
    assert isinstance(paper.policy.selector, TopK) and paper.importance.beta == 'cosine'
    assert paper.importance.weights == {'evs': 'beta', 'ds': '1 - beta'}
    assert code.importance.beta == 'half_cosine'


@pytest.mark.parametrize('kind', SCORER)
def test_a_random_subset_of_what_is_not_contradicted_asks_the_teacher_once(kind):
    settings = CoresetSettings.read(SCORER[kind], preset='rs2-trim')
    assert settings.scored_columns == ['teacher_error'] and settings.schedule.rounds == 1
    with_ds = CoresetSettings.read(SCORER[kind], preset='rs2-trim', importance=dict(weights=dict(evs=1.0)))
    assert with_ds.scored_columns == ['evs', 'teacher_error', 'ds']
    own = type('Own', (type(settings.scorer),), {'score': lambda *args: {}})()  # may mean another error
    assert replace(settings, scorer=own).scored_columns == ['teacher_error', 'ds']


def test_what_is_given_wins_key_by_key_and_a_selector_whole():
    given = dict(
        importance=dict(normalisation='rank'),
        selector=dict(type='TopK'),
        constraints=dict(trim=0.1),
        schedule=dict(full_data_last=3),
        cost=dict(rescore=0.5),
        unbiased=False,
    )
    base = CoresetSettings.read(SCORER['classifier'], preset='infobatch')
    assert base.max_weight == MAX_WEIGHT and base.schedule.interval == 1
    own = CoresetSettings.read(SCORER['classifier'], preset='infobatch', **given)
    assert own.importance.weights == {'loss': 1.0} and own.importance.normalisation == 'rank'
    assert isinstance(own.policy.selector, TopK) and own.policy.constraints == Constraints(trim=0.1)
    assert (own.schedule.interval, own.schedule.full_data_last) == (1, 3)
    assert (own.cost.harvest, own.cost.rescore) == (True, 0.5)
    assert own.max_weight is None
    said = presets.changes(presets.preset('infobatch', 'classifier'), given)
    assert said == (
        "importance.normalisation='rank', selector=dict(type='TopK'), constraints.trim=0.1, "
        'schedule.full_data_last=3, cost.rescore=0.5, unbiased=False'
    )
    assert presets.changes(presets.preset('afss', 'detector'), dict(constraints=dict(max_gap=2), cost=None)) == ''
    assert CoresetSettings.read(
        SCORER['detector'], preset='afss', constraints=dict(max_gap=None)
    ).policy.constraints == (Constraints())


@pytest.mark.parametrize(
    ('kind', 'name', 'message'),
    [
        ('detector', 'RS3', "unknown preset 'RS3': did you mean 'rs2'"),
        ('detector', 'none', "unknown preset 'none': "),
        ('classifier', ['acs'], "unknown preset .*'acs'"),
        ('detector', 'margin', "preset 'margin' is for classifiers, and this is a detector: take mmacs, acs, "),
        ('classifier', 'gap', "preset 'gap' is for detectors, and this is a classifier: take mmacs, acs, "),
    ],
)
def test_presets_that_are_not_to_be_had(kind, name, message):
    with pytest.raises(MmacsError, match=message):
        CoresetSettings.read(SCORER[kind], preset=name)


@pytest.mark.parametrize('name', ['infobatch', 'grand'])
def test_a_column_that_a_detectors_scorer_has_not_is_named(name):
    with pytest.raises(
        MmacsError, match=f'preset {name!r} needs the column .*, which TwoStageDetectionScorer does not'
    ):
        CoresetSettings.read(dict(type='TwoStageDetectionScorer'), preset=name)


def test_a_scorer_of_ones_own_keeps_its_weights_under_the_default_preset(monkeypatch):
    class Counts(Scorer):
        columns = {'count': 'number of objects'}
        weights = {'count': 1.0}

    monkeypatch.setitem(SCORERS.classes, 'Counts', Counts)
    settings = CoresetSettings.read(dict(type='Counts'))
    assert settings.importance.weights == {'count': 1.0} and isinstance(settings.policy.selector, ClassBalanced)
    before = CoresetSettings.read(dict(type='Counts'), before_presets=True)
    assert before.importance.weights == {'count': 1.0} and isinstance(before.policy.selector, TopK)
    with pytest.raises(MmacsError, match="preset 'acs' needs the column evs, which Counts does not have"):
        CoresetSettings.read(dict(type='Counts'), preset='acs')


def test_presets_are_copies():
    presets.preset('acs', 'detector')['importance']['weights'].clear()
    assert presets.preset('acs', 'detector')['importance']['weights']
    presets.preset('mmacs', 'classifier')['importance']['weights'].clear()
    assert ClassificationScorer.weights and DenseDetectionScorer.weights
