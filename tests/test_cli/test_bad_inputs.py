"""Values that a setting cannot have: each is answered by one sentence where it is read, long before any training."""

import math
from functools import partial

import pytest
from mmengine.config import Config
from torch import nn

from mmacs.datasets.generated import parse_spec
from mmacs.datasets.label_noise import parse_noise
from mmacs.datasets.shape_tiles import ClassificationSpec
from mmacs.hooks.optim_constructor import QuantizationOptimWrapperConstructor
from mmacs.quantization import quantize_model
from mmacs.registry import DATA_SAMPLERS, DATASETS, HOOKS, MODELS
from mmacs.utils.errors import MmacsError
from mmacs.utils.registry import SCORERS, SELECTORS
from tests.conftest import REPO

TYPES = ['x', [], {}]  # of no number, switch or count
NO_NUMBER = [None, True, *TYPES, math.nan, math.inf]
NO_COUNT = [None, True, *TYPES, -1, 1.5, math.nan, math.inf, 10**23]
NO_SWITCH = [None, 'maybe', 2, 1.5, math.nan, [], {}]
NO_SHARE = [*NO_NUMBER, -1, 1.5]
NO_PATTERN = [True, 5, math.nan, {}, [], [5]]


def hook(name, **settings):
    return HOOKS.build(dict(type=f'mmacs.{name}', **settings))


def coreset(**settings):
    return hook('CoresetHook', **{'scorer': dict(type='mmacs.DenseDetectionScorer'), **settings})


def group(name, **settings):
    return coreset(**{name: settings})


def sampler(**settings):
    return DATA_SAMPLERS.build(
        dict(type='mmacs.CoresetSampler', **settings), default_args=dict(dataset=range(9), seed=0)
    )


def selector(name, **settings):
    return SELECTORS.build(dict(type=f'mmacs.{name}', **settings))


def scorer(name, **settings):
    return SCORERS.build(dict(type=f'mmacs.{name}', **settings))


def recipe(**settings):
    return quantize_model(nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(3))), settings)


def weight(quantizer, **settings):
    return recipe(weight=dict(type=quantizer, **settings))


def activation(quantizer, **settings):
    return recipe(activation=dict(type=quantizer, **settings))


def rule(**settings):
    return recipe(rules=[dict({'name': '*'}, **settings)])


def parameters(**settings):
    optimizer = dict(type='SGD', lr=0.1, weight_decay=0.1)
    return QuantizationOptimWrapperConstructor(dict(type='OptimWrapper', optimizer=optimizer), settings)


def noise(**settings):
    return parse_noise(settings, ('a', 'b'))


def noisy(**settings):
    return DATASETS.build(dict(type='mmacs.NoisyLabels', **{**dict(dataset={}, noise={}), **settings}))


def tiles(**spec):
    return parse_spec(ClassificationSpec, spec)


def embedded(**settings):
    return parse_spec(ClassificationSpec, **{'values': settings['spec']})


def per_level(**settings):
    return MODELS.build(dict(type='mmacs.PerLevelBN', num_features=3, **settings))


def quantized(**settings):
    model = Config.fromfile(REPO / 'configs' / 'cifar_resnet' / 'resnet20_embedded_w4a4_acs.py').model
    return MODELS.build(dict(model, **settings))


# what is built: by each setting, the values that it cannot have
BAD = {
    partial(sampler): dict(
        fraction=[*NO_NUMBER, 0, -1, 1.5, 10**309],
        shuffle=NO_SWITCH,
        redraw=NO_SWITCH,
        seed=[-1, 1.5, 'abc', 10**23, math.nan, True, [], {}],
    ),
    partial(group, 'schedule'): dict(
        interval=[*NO_COUNT, 0],
        warmup=NO_COUNT,
        full_data_last=NO_COUNT,
        rounds=[value for value in NO_COUNT if value is not None] + [0],
    ),
    partial(group, 'constraints'): dict(
        class_floor=NO_COUNT,
        max_gap=[value for value in NO_COUNT if value is not None] + [0],
        random_share=NO_SHARE,
        trim=[*NO_SHARE, 1],
    ),
    partial(group, 'cost'): dict(
        rescore=NO_SHARE,
        harvest=NO_SWITCH,
        resolution=[*NO_SHARE, 0],
        precision=[None, 5, 'float8', []],
        budget=[*NO_SHARE[1:], 0, 1],
        force=NO_SWITCH,
    ),
    partial(group, 'scoring'): dict(
        pipeline=['x', [], {}, 5, True, ['x'], math.nan],
        batch_size=[value for value in NO_COUNT if value is not None] + [0],
    ),
    partial(group, 'importance'): dict(
        weights=['x', [], {}, 5, True],
        beta=['cosin', True, [], {}, -1, 1.5, math.nan],
        normalisation=['ranks', 5, [], True],
    ),
    partial(coreset): dict(
        scorer=[None, 5, 'x', []],
        selector=[5, 0, 'x', [], {}],
        importance=['x', 5, []],
        constraints=['x', 5, []],
        schedule=['x', 5, []],
        cost=['x', 5, []],
        scoring=['x', 5, []],
        preset=[None, 'x', 5, [], {}],
        unbiased=['x', 0, 0.5, -1, math.nan, math.inf, []],
        cache_dir=[5, True, '', [], {}, math.nan],
    ),
    partial(selector, 'GumbelTopK'): dict(temperature=[*NO_NUMBER, 0, -1]),
    partial(selector, 'Stratified'): dict(hard_cut=[*NO_SHARE, 1], bins=[*NO_COUNT, 0]),
    partial(selector, 'Sweep'): dict(floor=NO_NUMBER),
    partial(selector, 'Tiers'): dict(hard=NO_NUMBER, easy=NO_NUMBER, rates=[None, 'x', [], [1, 2, 3], [0.5, 0.5], 5]),
    partial(scorer, 'ClassificationScorer'): dict(num_probs=[*NO_COUNT[1:], 0]),
    partial(scorer, 'DenseDetectionScorer'): dict(
        num_candidates=[*NO_COUNT, 0], num_hard_negatives=[*NO_COUNT, 0], score_threshold=NO_SHARE
    ),
    partial(hook, 'QuantizationHook'): dict(
        num_images=[*NO_COUNT, 0], batch_size=[*NO_COUNT, 0], check_interval=[*NO_COUNT, 0]
    ),
    partial(hook, 'BatchNormReestimationHook'): dict(num_images=[*NO_COUNT, 0]),
    partial(hook, 'AdaptiveBitsHook'): dict(
        cost_weight=[*NO_NUMBER, -1],
        target=NO_SHARE,
        lr=[*NO_NUMBER, -1],
        interval=[*NO_COUNT, 0],
        min_bits=[*NO_COUNT, 0, 8],
        max_bits=[*NO_COUNT, 0, 9],
        max_crossings=[*NO_COUNT, 0],
        freeze_epoch=[*NO_COUNT[1:], 0],
    ),
    partial(hook, 'ActivationDensityHook'): dict(
        tolerance=NO_SHARE, min_bits=[*NO_COUNT, 0, 17], freeze_epoch=[*NO_COUNT[1:], 0]
    ),
    partial(hook, 'BitGradientHook', candidates=(2, 4)): dict(
        mean_bits=[*NO_NUMBER[1:], 0, -1],
        size_mb=[*NO_NUMBER[1:], 0, -1],
    ),
    partial(hook, 'BitGradientHook', mean_bits=4): dict(
        candidates=[5, 'x', [], [4], [4, 40]], interval=[*NO_COUNT, 0], freeze_epoch=[*NO_COUNT[1:], 0]
    ),
    partial(hook, 'GradientL1Hook'): dict(weight=[*NO_NUMBER, -1], activation=[*NO_NUMBER, -1]),
    partial(hook, 'WeightUpdateSkippingHook'): dict(metric=[5, []], tolerance=[*NO_NUMBER, -1], window=[*NO_COUNT, 0]),
    partial(hook, 'DistillationHook'): dict(
        weight=[*NO_NUMBER, 0, -1],
        temperature=[*NO_NUMBER, 0, -1],
        form=[None, 'kld', 5, [], {}],
        box_weight=[*NO_NUMBER, -1],
        layers=NO_PATTERN,
        layer_weight=[*NO_NUMBER, 0, -1],
        teacher=['x', 5, True, {}, [], dict(config='a.py')],
    ),
    partial(parameters): dict(
        quantizer_lr_mult=[*NO_NUMBER, -1], quantizer_decay_mult=[*NO_NUMBER, -1], bypass_duplicate=NO_SWITCH
    ),
    partial(per_level): dict(num_levels=[*NO_COUNT, 0, 10**9]),
    partial(noisy): dict(seed=[*NO_COUNT, -1], dataset=['x', 5, None]),
    partial(tiles): dict(num_train=NO_COUNT, seed=NO_COUNT),
    partial(embedded): dict(spec=['x', 5, True, []]),
    partial(noise): dict(symmetric=NO_SHARE, drop_boxes=NO_SHARE, jitter=NO_SHARE),
    partial(recipe): dict(
        preset=[None, 5, 'w4a5', [], {}],
        weight=['x', 5, True, []],
        activation=['x', 5, True, []],
        additions=['x', 5, True, []],
        concatenations=['x', 5, True, []],
        rules=['x', 5, 0, True, {}, ['x'], [5], [None]],
    ),
    partial(rule): dict(
        name=[None, 5, True, [], {}, math.nan],
        type=[None, 5, [], {}, 'Conf2d'],
        role=[None, 5, [], 'inputs'],
        skip=['yes', 1, 2, []],
        weight=['x', 5, True, []],
    ),
    partial(weight, 'LSQ'): dict(
        bits=[0, 33, 1.5, True, '4', None, -1, math.nan, [], {}, 10**23],
        init=[None, 5, 'means', []],
        per_channel=NO_SWITCH[1:],
        power_of_two=NO_SWITCH[1:],
    ),
    partial(activation, 'LSQ'): dict(
        bits=[0, 17, 1.5, True, '4'],
        signed=NO_SWITCH[1:],
        per_level=[-1, 1.5, 'x', None, math.nan, [], 10**9, 10**23],
    ),
    partial(activation, 'MinMax'): dict(symmetric=NO_SWITCH[1:]),
    partial(activation, 'EMAMinMax'): dict(momentum=[*NO_SHARE, 0]),
    partial(weight, 'Percentile'): dict(percentile=[*NO_NUMBER, 50, 101, -1]),
    partial(activation, 'OCTAV'): dict(momentum=[*NO_SHARE, 0]),
    partial(activation, 'DoReFa'): dict(rescale=NO_SWITCH),
    partial(quantized): dict(model=[None, 5, [], 'ImageClasifier'], recipe=[5, True, [], 'none.json']),
}
ROWS = [(build, key, value) for build, settings in BAD.items() for key, values in settings.items() for value in values]


@pytest.mark.parametrize(
    ('build', 'key', 'value'),
    ROWS,
    ids=[
        f'{" ".join([build.func.__name__, *build.args])}-{key}-{number}' for number, (build, key, _) in enumerate(ROWS)
    ],
)
def test_a_value_that_a_setting_cannot_have_is_named_with_it(build, key, value):
    with pytest.raises(MmacsError) as answer:
        build(**{key: value})
    sentence = str(answer.value)
    assert repr(value).strip('\'"[]') in sentence, sentence
    assert key in sentence, sentence
    assert '\n' not in sentence and len(sentence) < 400


@pytest.mark.parametrize(
    ('build', 'words'),
    [
        (
            partial(coreset, scorer=dict(type='DenseScorer')),
            "unknown scorer 'DenseScorer': did you mean 'DenseDetection",
        ),
        (partial(coreset, selector=dict(type='TopKK')), "unknown selector 'TopKK': did you mean 'TopK'"),
        (partial(coreset, selector=dict(type='TopK', k=3)), 'TopK has no arguments, got k'),
        (partial(coreset, selector=dict(type='Stratified', bin=3)), "'bin': did you mean 'bins'"),
        (partial(coreset, scorer=dict(type='DenseDetectionScorer', candidates=3)), "did you mean 'num_candidates'"),
        (partial(coreset, max_weight=0), 'CoresetHook has no setting max_weight'),
        (partial(coreset, intervall=3), 'did you mean schedule=dict(interval=3)'),
        (partial(coreset, interval=3), 'write schedule=dict(interval=3)'),
        (partial(group, 'schedule', interwal=3), "unknown setting of schedule 'interwal': did you mean 'interval'"),
        (partial(group, 'schedule', trim=0.1), 'trim is no setting of schedule: write constraints=dict(trim=0.1)'),
        (partial(group, 'importance', weights=dict(evs='gamma')), "the weight of evs must be a number, 'beta'"),
        (partial(group, 'importance', weights=dict(evs=math.inf)), 'the weight of evs must be a number'),
        (partial(recipe, bits=4), "unknown recipe key 'bits'"),
        (partial(recipe, weight=dict(type='LSQ+')), "unknown quantizer 'LSQ+': did you mean 'LSQ"),
        (partial(recipe, weight=dict(type=5)), 'unknown quantizer 5'),
        (partial(recipe, weight=dict(bit=4)), "unknown weight setting 'bit': did you mean 'bits'"),
        (partial(recipe, activation=dict(percentile=99)), "unknown activation setting 'percentile'"),
        (partial(recipe, weight=dict(type='DQActivation')), 'DQActivation quantizes the activation, not the weight'),
        (partial(recipe, additions=dict(per_level=True)), 'additions have no per_level'),
        (partial(recipe, rules=[dict(bits=4)]), "unknown rule key 'bits'"),
        (partial(recipe, rules=[dict(skip=True)]), 'selects nothing: give it a name, a type or a role'),
        (partial(recipe, rules=[dict(name='neck.*', skip=True)]), 'matches no layer of the model'),
        (partial(recipe, rules=[dict(name='*', skip=True)]), 'leaves nothing of this Sequential to quantize'),
        (partial(noise, symetric=0.1), "unknown setting of label noise 'symetric': did you mean 'symmetric'"),
    ],
)
def test_names_that_do_not_exist_are_told_with_the_nearest(build, words):
    with pytest.raises(MmacsError) as answer:
        build()
    assert words in str(answer.value)
