import pytest

from mmacs.cli.comparison.grid import read_grid
from mmacs.utils.errors import MmacsError

WHOLE = dict(config='a.py', methods='[mmacs]', fractions='[0.1]')


def read(tmp_path, **keys):
    path = tmp_path / 'my_grid.yml'
    path.write_text(''.join(f'{key}: {value}\n' for key, value in {**WHOLE, **keys}.items() if value is not None))
    return read_grid(path)


def test_a_grid_has_what_its_file_says(tmp_path):
    grid = read(
        tmp_path,
        methods='[full, rs2, mmacs, {mmacs-trim: {preset: mmacs, constraints: {trim: 0.2}}}]',
        recipes='[w4a4, LSQ+ w2a2, {mine: {preset: w4a4, activation: {per_channel: true}}}]',
        seeds='[3, 4]',
        stages='[ptq, qat]',
        cfg_options='{optim_wrapper.optimizer.lr: 1e-3}',
        equal_time='{rs2: mmacs}',
        tuned_on='[{seed: 3}, {method: mmacs, fraction: [0.1]}]',
    )
    assert grid.name == 'my_grid'
    assert grid.methods['mmacs'] == {'preset': 'mmacs'}
    assert grid.methods['mmacs-trim'] == {'preset': 'mmacs', 'constraints': {'trim': 0.2}}
    assert grid.recipes['mine'] == {'preset': 'w4a4', 'activation': {'per_channel': True}}
    assert grid.cfg_options == {'optim_wrapper.optimizer.lr': 0.001}
    assert grid.equal_time == {'rs2': ('mmacs',)}
    run = dict(stage='qat', recipe='w4a4', method='mmacs', fraction=0.1, seed=4)
    assert grid.is_tuned(**run)
    assert not grid.is_tuned(**{**run, 'fraction': 0.3})
    assert grid.is_tuned(**{**run, 'method': 'rs2', 'seed': 3})


def test_repeated_random_is_in_every_comparison(tmp_path):
    assert list(read(tmp_path).methods) == ['rs2', 'mmacs']
    assert list(read(tmp_path, methods='[full, static]').methods) == ['rs2', 'full', 'static']
    assert list(read(tmp_path, methods='[full]').methods) == ['full']


@pytest.mark.parametrize(
    ('keys', 'message'),
    [
        (dict(fraction='[0.1]'), "my_grid.yml: unknown key 'fraction': did you mean 'fractions'"),
        (dict(config=None), 'config is missing'),
        (dict(config=5), 'config must be the path of a file, got 5'),
        (dict(methods=None), 'methods is missing'),
        (dict(methods='mmacs'), "methods must be a list, such as .* got 'mmacs'"),
        (dict(methods='[]'), 'methods must be a list'),
        (dict(methods='[mmacs, mmacs]'), "methods names 'mmacs' twice"),
        (dict(methods='[3]'), 'methods must be names'),
        (dict(methods='[{a: mmacs}]'), "'a' must have settings, got 'mmacs'"),
        (dict(methods='[{a: {}}]'), "the method 'a' names no preset"),
        (dict(methods='[{a: {preset: mmacs, selecter: {}}}]'), "setting of the method 'a' 'selecter': did you mean"),
        (dict(fractions=None), 'fractions is missing'),
        (dict(fractions='0.1'), 'fractions must be a list, such as \\[0.1, 0.3\\], got 0.1'),
        (dict(fractions='[0.1, 10]'), 'fractions must be numbers above 0 and at most 1, got 10'),
        (dict(fractions='["0.1"]'), "fractions must be numbers above 0 and at most 1, got '0.1'"),
        (dict(fractions='[true]'), 'fractions must be numbers'),
        (dict(seeds='[0.5]'), 'seeds must be whole numbers from 0 to 4294967295, got 0.5'),
        (dict(seeds='[-1]'), 'seeds must be whole numbers'),
        (dict(seeds='3'), 'seeds must be a list'),
        (dict(recipes='[w4b4]'), "a recipe is bits such as 'w4a4'"),
        (dict(recipes='[{a: {preset: w4a5}}]'), "unknown preset 'w4a5'"),
        (dict(recipes='[LSK w4a4]'), "did you mean 'LSQ'"),
        (dict(stages='[qta]'), "unknown stage 'qta': did you mean 'qat'"),
        (dict(stages='[ptq]'), 'methods belongs to the stage qat'),
        (dict(cfg_options='[a=1]'), 'cfg_options must be settings of the config'),
        (dict(equal_time='[rs2]'), 'equal_time must say which method is trained as long as which'),
        (dict(equal_time='{rs2: mmac}'), "unknown method 'mmac': did you mean 'mmacs'"),
        (dict(equal_time='{rs2: [rs2]}'), 'rs2 cannot be trained as long as rs2'),
        (dict(tuned_on='[{seed: a}]'), "seeds must be whole numbers from 0 to 4294967295, got 'a'"),
        (dict(tuned_on='[{method: [mmac]}]'), "unknown method 'mmac': did you mean 'mmacs'"),
        (dict(tuned_on='{seed: 1}'), 'tuned_on must be a list'),
        (dict(tuned_on='[{seeds: [1]}]'), "unknown key of tuned_on 'seeds': did you mean 'seed'"),
    ],
)
def test_a_mistake_is_answered_by_one_sentence_that_names_the_file(tmp_path, keys, message):
    with pytest.raises(MmacsError, match=message) as error:
        read(tmp_path, **keys)
    assert str(error.value).startswith(str(tmp_path / 'my_grid.yml'))
