import pytest
from torch import nn

from mmacs.quantization.recipe import Recipe
from mmacs.utils.errors import MmacsError

MODEL = nn.ModuleDict(
    {
        'backbone': nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)),
        'bbox_head': nn.ModuleDict({'cls_conv': nn.Conv2d(4, 4, 1), 'retina_cls': nn.Conv2d(4, 4, 1)}),
    }
)


def bits(recipe, kind='weight'):
    resolved = Recipe(recipe).resolve(MODEL)
    return [settings[kind]['bits'] if settings[kind] else None for settings in resolved.values()]


def test_preset_with_first_and_prediction_layers_at_8_bit():
    assert bits('w4a4') == [8, 4, 4, 8]
    assert bits('w4a32', 'activation') == [None] * 4
    assert bits('w1a1') == bits('w1a1', 'activation') == [8, 1, 1, 8]


def test_later_rules_win_and_settings_change_only_what_they_name():
    recipe = dict(
        preset='w2a2',
        rules=[
            dict(name='bbox_head.*', weight=dict(bits=4)),
            dict(role='prediction', weight=dict(bits=6, per_channel=False)),
        ],
    )
    assert bits(recipe) == [8, 2, 4, 6]
    assert bits(recipe, 'activation') == [8, 2, 2, 8]


def test_settings_beside_the_preset_and_skip():
    assert bits(dict(preset='w4a4', weight=dict(bits=3))) == [8, 3, 3, 8]
    assert list(Recipe(dict(rules=[dict(type='Conv2d', name='backbone.*', skip=True)])).resolve(MODEL)) == [
        'bbox_head.cls_conv',
        'bbox_head.retina_cls',
    ]


@pytest.mark.parametrize(
    ('recipe', 'message'),
    [
        ('w4a5', "unknown preset 'w4a5': did you mean 'w4a"),
        (dict(preset='w4a4', weigth={}), "did you mean 'weight'"),
        (dict(weight=dict(bit=4)), "did you mean 'bits'"),
        (dict(weight=dict(bits=17)), 'bits must be an integer from 1 to 16'),
        (dict(activation=dict(bits=0)), 'bits must be an integer from 1 to 16'),
        (dict(weight=dict(type='LSQQ')), "unknown quantizer 'LSQQ': did you mean 'LSQ'"),
        (dict(activation=dict(type='LSQ', percentile=99)), "unknown activation setting 'percentile'"),
        ('no_such.json', 'cannot read the recipe no_such.json'),
        (dict(weight=4), 'weight must be a dict of settings'),
        (dict(rules=dict(name='*', skip=True)), 'rules must be a list of dicts'),
        (None, "a recipe is a preset's name, a JSON file or a dict"),
        (dict(rules=[dict(weight=dict(bits=4))]), 'selects nothing'),
        (dict(rules=[dict(role='last', skip=True)]), "unknown role 'last'"),
        (dict(rules=[dict(name='a*' * 10**6, skip=True)]), 'a name in a rule has more than 1000 characters'),
    ],
)
def test_mistakes_are_one_clear_sentence(recipe, message):
    with pytest.raises(MmacsError, match=message):
        Recipe(recipe)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'Expecting value'),
        ('\x00\xff', 'codec'),
        ('{"preset": "w4a4"', "Expecting ',' delimiter"),
        ('[]', 'is not a JSON object'),
        ('"w4a4"', 'is not a JSON object'),
        ('{"preset": NaN}', 'it holds NaN, which is no number'),
        ('{"weight": {"bits": 4, "bits": 2}}', "it has the key 'bits' twice"),
        ('{"weight": {"bits": 1%s}}' % ('0' * 400), 'which is too large'),
        ('{"weight": {"bits": 1e400}}', 'which is too large'),
        ('{"weight": {"bits": 1%s}}' % ('0' * 5000), 'cannot read the recipe'),
        ('{"rules": ' + '[' * 10**5, 'it is nested more than 20 deep'),
        ('{"rules": ' + '[' * 30 + ']' * 30 + '}', 'it is nested more than 20 deep'),
        ('{"a":' * 10**5, 'it is nested more than 20 deep'),
        ('{"\\u001b[2Kall is well": 1}', r'\\x1b\[2Kall is well'),
        ('{"preset": %s1}' % (' ' * 10**7), 'it has more than 10000000 bytes'),
        ('{"weight": {"bits": 1000000}}', 'bits must be an integer from 1 to 16'),
    ],
    ids=range(16),
)
def test_a_file_that_is_no_recipe_says_why(tmp_path, text, message):
    (tmp_path / 'a.json').write_text(text, encoding='latin1')
    with pytest.raises(MmacsError, match=message) as caught:
        Recipe(str(tmp_path / 'a.json'))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600


def test_a_folder_is_no_recipe(tmp_path):
    with pytest.raises(MmacsError, match='cannot read the recipe .*: Is a directory'):
        (tmp_path / 'a.json').mkdir()
        Recipe(str(tmp_path / 'a.json'))


def test_patterns_are_matched_in_no_time():
    """Patterns with many stars make regular expressions that try everything, where these go back."""
    with pytest.raises(MmacsError, match='matches no layer'):
        Recipe(dict(rules=[dict(name='*' + 'a*' * 40 + '!', skip=True)])).resolve(
            nn.ModuleDict({'a' * 200: nn.Conv2d(1, 1, 1)})
        )


def test_a_rule_that_matches_nothing_lists_near_names():
    with pytest.raises(MmacsError, match='near names: bbox_head.retina_cls'):
        Recipe(dict(rules=[dict(name='bbox_head.retina_clss', skip=True)])).resolve(MODEL)
