import pytest

from mmacs.quantization.named_recipes import QUANTIZER_PAIRS, named_recipe
from mmacs.quantization.recipe import Recipe
from mmacs.utils.errors import MmacsError


def settings(text):
    return [Recipe(named_recipe(text)).settings[kind] for kind in ('weight', 'activation')]


def test_a_recipe_has_the_bits_and_quantizers_of_its_name():
    assert [one['bits'] for one in settings('w3a8')] == [3, 8]
    assert [(one['type'], one['bits']) for one in settings('LSQ+ w4a2')] == [('LSQ', 4), ('LSQPlus', 2)]
    assert settings('w4a32')[1] is None
    assert Recipe(named_recipe('w8a8-int')).sharing == 'tensor'
    for pair in QUANTIZER_PAIRS:
        assert [one['bits'] for one in settings(f'{pair} w4a8')] == [4, 8]


def test_a_file_stands_for_what_it_holds(tmp_path):
    (tmp_path / 'mixed.json').write_text('{"preset": "w2a2", "rules": []}')
    assert named_recipe(str(tmp_path / 'mixed.json')) == {'preset': 'w2a2', 'rules': []}


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('LSQ w4', "'LSQ\\+ w4a4', or a JSON file, got 'LSQ w4'"),
        ('LSK w4a4', "unknown pair of quantizers 'LSK': did you mean 'LSQ'"),
        ('missing.json', 'cannot read the recipe missing.json'),
    ],
)
def test_what_names_no_recipe_is_told(text, message):
    with pytest.raises(MmacsError, match=message):
        named_recipe(text)
