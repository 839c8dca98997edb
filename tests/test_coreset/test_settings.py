from copy import deepcopy

import pytest
from torch import nn

from mmacs.coreset.budget.cost import Cost
from mmacs.coreset.scoring.scorers import ClassificationScorer, Scorer
from mmacs.coreset.selection.constraints import Constraints
from mmacs.coreset.selection.importance import Importance
from mmacs.coreset.selection.policy import Policy
from mmacs.coreset.selection.selectors import ClassBalanced, TopK
from mmacs.coreset.settings import MAX_WEIGHT, CoresetSettings, check_settings
from mmacs.quantization import quantize_model
from mmacs.utils.errors import MmacsError

SCORER = dict(type='mmacs.ClassificationScorer')


def test_defaults_are_those_of_the_scorer():
    settings = CoresetSettings.read(SCORER)
    assert isinstance(settings.scorer, ClassificationScorer)
    assert settings.importance.weights == ClassificationScorer.weights
    assert settings.importance.normalisation == 'rank' and settings.max_weight is None
    assert isinstance(settings.policy.selector, ClassBalanced) and settings.policy.selector.selector.temperature == 0.5
    changed = CoresetSettings.read(SCORER, importance=dict(normalisation='none', weights=None))
    assert changed.importance.weights == ClassificationScorer.weights and changed.importance.normalisation == 'none'


def plain_and_quantized():
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
    return plain, quantize_model(deepcopy(plain), 'w4a4')


@pytest.mark.parametrize('kind', ['Classification', 'DenseDetection', 'TwoStageDetection', 'QueryDetection'])
def test_a_model_without_quantizers_is_scored_by_columns_without_a_teacher(kind):
    plain, quantized = plain_and_quantized()
    settings = CoresetSettings.read(dict(type=f'mmacs.{kind}Scorer'), importance=dict(beta='linear'))
    assert settings.of(quantized) is settings and settings.needs_teacher
    own = settings.of(plain)
    assert own.columns == list(own.scorer.plain_weights) and not own.needs_teacher
    assert own.importance.normalisation == own.scorer.normalisation
    given = CoresetSettings.read(dict(type=f'mmacs.{kind}Scorer'), importance=dict(weights=dict(evs='beta')))
    assert given.of(plain) is given


def test_weights_of_a_scorer_that_needs_no_teacher_stay():
    class Counts(ClassificationScorer):
        weights = {'loss': 1.0}

    settings = CoresetSettings(Counts(), Importance(Counts.weights), Policy(TopK(), Constraints()), weights_given=False)
    assert settings.of(plain_and_quantized()[0]) is settings


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        (
            dict(importance=dict(weights=dict(evs='beta', ds='1 - beta', kl=1.0))),
            r'^ds and kl cannot be scored: they compare a quantized model .* this Sequential is not quantized: choose '
            r'among evs, margin, entropy, grand, loss, correct, without trim, or write model=dict',
        ),
        (dict(constraints=dict(trim=0.1)), '^teacher_error and ds, which trim asks for, cannot be scored'),
    ],
)
def test_columns_that_a_model_without_quantizers_has_not(given, message):
    with pytest.raises(MmacsError, match=message):
        CoresetSettings.read(SCORER, **given).of(plain_and_quantized()[0])


@pytest.mark.parametrize(('given', 'bound'), [(False, None), (True, MAX_WEIGHT), (3, 3.0), (1, 1.0)])
def test_unbiased_is_a_switch_or_the_bound(given, bound):
    assert CoresetSettings.read(SCORER, unbiased=given).max_weight == bound


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(unbiased=0.5), 'unbiased must be True, False, or a bound on the weights of at least 1, got 0.5'),
        (dict(unbiased='yes'), "got 'yes'"),
        (dict(others=dict(selection_budget=0.1)), r'write cost=dict\(budget=0.1\)'),
        (dict(others=dict(class_floor=2)), r'write constraints=dict\(class_floor=2\)'),
        (dict(others=dict(batch_size=2)), r'write scoring=dict\(batch_size=2\)'),
        (dict(others=dict(max_weight=5.0)), 'leave it out, or write unbiased=5.0 in the place of unbiased=True'),
        (dict(others=dict(max_weight=0)), 'or write unbiased=<a bound of at least 1> in the place of unbiased=True'),
        (dict(others=dict(scorrer=1)), "unknown setting of CoresetHook 'scorrer': did you mean 'scorer'"),
        (dict(others=dict(intervall=3)), r'did you mean schedule=dict\(interval=3\)\?'),
        (dict(others=dict(kache_dir='x')), "did you mean 'cache_dir'"),
        (
            dict(others=dict(interval=3, class_floor=2, warmup=1)),
            r'interval, class_floor, warmup belong to groups of CoresetHook: '
            r'write schedule=dict\(interval=3, warmup=1\), constraints=dict\(class_floor=2\)',
        ),
        (dict(schedule=dict(beta='cosine')), r"beta is no setting of schedule: write importance=dict\(beta='cosine'\)"),
        (dict(selector=dict(type='mmacs.Moderate', temperature=1)), r'write dict\(_delete_=True, type=...\)'),
        (dict(importance='evs'), 'importance must be a dict of settings'),
        (dict(scoring=dict(batch_size=0)), 'batch_size must be a whole number, at least 1, got 0'),
        (dict(cost=dict(resolution=2)), 'resolution must be above 0 and at most 1'),
        (dict(cost=dict(rescore=0.0)), 'rescore=0 scores nothing after the first round'),
        (
            dict(cost=dict(rescore=0.0, harvest=True, candidates=4), importance=dict(weights=dict(evs=1.0))),
            'each round has other candidates: leave out one',
        ),
        (
            dict(cost=dict(candidates=1.2), constraints=dict(trim=0.3)),
            'candidates=1.2 and trim=0.3 leave fewer .*: raise candidates to at least 1.43',
        ),
        (dict(cost='cheap'), "cost must be a dict of settings, .*, or 'auto', got 'cheap'"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(MmacsError, match=message):
        CoresetSettings.read(SCORER, **settings)


def test_cost_auto_is_a_budget_beside_what_a_preset_says_of_costs():
    assert CoresetSettings.read(SCORER, cost='auto').cost == Cost(budget='auto')
    assert CoresetSettings.read(SCORER, cost='auto', preset='infobatch').cost == Cost(
        budget='auto', harvest=True, rescore=0.0
    )
    check_settings(SCORER, cost='auto')  # of a preset that scores nothing
    with pytest.raises(MmacsError, match="or 'auto', got 'cheap'"):
        check_settings(SCORER, cost='cheap')


@pytest.mark.parametrize(('before', 'now'), [('reference', 'teacher_outputs'), ('harvestable', 'training_columns')])
def test_a_scorer_written_for_mmacs_0_1_is_told_the_new_names(before, now):
    with pytest.raises(MmacsError, match=f'the scorer Mine has {before}, which is called {now} since mmacs 0.2'):
        type('Mine', (Scorer,), {before: None})


def test_a_floor_needs_raw_errors():
    for selector in (dict(type='mmacs.Sweep'), dict(type='mmacs.ClassBalanced', selector=dict(type='mmacs.Sweep'))):
        with pytest.raises(MmacsError, match="normalisation='rank': write importance=dict"):
            CoresetSettings.read(SCORER, selector=selector, importance=dict(normalisation='rank'))
        CoresetSettings.read(SCORER, selector=selector, importance=dict(weights=dict(evs=1.0), normalisation='none'))
