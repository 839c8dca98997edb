from dataclasses import replace

import pytest
from mmengine.registry import HOOKS

from mmacs.cli.comparison.cells import Cell, base_config, cell_config, cells_of
from mmacs.cli.comparison.grid import Grid, read_grid
from mmacs.cli.comparison.identity import settings_of
from mmacs.coreset.presets import names
from mmacs.utils.errors import MmacsError
from tests.conftest import REPO
from tests.test_configs import choose

ACS = ('retinanet/retinanet_r18_bccd_w4a4_acs.py', 'cifar_resnet/resnet20_cifar10_w4a4_acs.py')


def grid_of(config, *methods, **changes):
    known = {name: {'preset': name} for name in methods}
    settings = dict(fractions=(0.1,), methods=known)
    return Grid('grid', str(REPO / 'configs' / config), **{**settings, **changes})


def cell(method='mmacs', **changes):
    return replace(Cell('qat', 'config', 3, method, 0.1), **changes)


@pytest.mark.parametrize('path', sorted((REPO / 'configs' / 'comparisons').glob('*.yml')), ids=lambda path: path.stem)
def test_shipped_grids_name_presets_settings_and_configs_that_exist(path, monkeypatch):
    monkeypatch.chdir(REPO)
    grid = read_grid(path)
    cfg = base_config(grid)
    for one in cells_of(replace(grid, seeds=grid.seeds[:1])):
        made = cell_config(grid, cfg, one)
        assert one.stage != 'qat' or made.default_hooks.coreset.preset == grid.methods[one.method]['preset']


def test_what_needs_no_training_comes_first_then_seed_by_seed_all_images_once():
    grid = grid_of(
        ACS[1],
        'rs2',
        'full',
        'mmacs',
        stages=('qat', 'ptq', 'fp'),
        recipes={'w4a4': {'preset': 'w4a4'}},
        fractions=(0.1, 0.3),
        seeds=(5, 6),
        equal_time={'rs2': ('mmacs',)},
    )
    assert [one.name for one in cells_of(grid)[:6]] == [
        'fp seed 5',
        'ptq w4a4 seed 5',
        'full 1 w4a4 seed 5',
        'rs2 0.1 w4a4 seed 5',
        'mmacs 0.1 w4a4 seed 5',
        'rs2 as long as mmacs 0.1 w4a4 seed 5',
    ]
    assert [one.seed for one in cells_of(grid)[2:]] == [5] * 7 + [6] * 7
    slugs = [one.slug for one in cells_of(grid)]
    assert len(set(slugs)) == len(slugs)
    assert '/' not in ''.join(slugs)


@pytest.mark.parametrize('config', ACS)
def test_runs_differ_in_what_their_method_changes_alone(config):
    kind = 'classifier' if 'cifar' in config else 'detector'
    grid = grid_of(config, *names(kind))
    cfg = base_config(grid)
    before = cfg.to_dict()
    for name in names(kind):
        made = cell_config(grid, cfg, cell(name))
        hook = made.default_hooks.coreset
        assert made.randomness.seed == 3
        assert made.train_dataloader.sampler.fraction == 0.1
        assert (hook.preset, hook.scorer) == (name, cfg.default_hooks.coreset.scorer)
        assert hook.keys() <= {'type', 'scorer', 'preset', 'schedule', 'cost'}
        rest = [{**one.to_dict(), 'train_dataloader': 0, 'default_hooks': 0, 'randomness': 0} for one in (made, cfg)]
        rest[0]['train_cfg'].pop('val_begin')
        assert rest[0] == rest[1]
    assert cfg.to_dict() == before


@pytest.mark.parametrize('config', ACS)
def test_each_method_can_choose_at_each_fraction(config):
    kind = 'classifier' if 'cifar' in config else 'detector'
    grid = grid_of(config, *names(kind))
    cfg = base_config(grid)
    for name in names(kind):
        hook = HOOKS.build(cell_config(grid, cfg, cell(name)).default_hooks.coreset)
        if name not in ('full', 'rs2', 'static'):
            for fraction in (0.1, 0.3, 0.5):
                choose(hook, fraction)


def test_a_method_keeps_the_configs_interval_unless_its_preset_has_one_and_its_own_groups_win():
    options = {'default_hooks.coreset.schedule': {'interval': 4}}
    grid = grid_of(ACS[0], 'mmacs', 'infobatch', 'rs2', cfg_options=options)
    grid.methods['mine'] = {
        'preset': 'mmacs',
        'schedule': {'interval': 7},
        'cost': {'rescore': 0.5},
        'cfg_options': {'train_cfg.max_epochs': 9},
    }
    grid.methods['cheap'] = {'preset': 'mmacs', 'cost': 'auto'}
    cfg = base_config(grid)
    made = {name: cell_config(grid, cfg, cell(name)) for name in grid.methods}
    hooks = {name: one.default_hooks.coreset for name, one in made.items()}
    assert hooks['mmacs'].schedule.interval == 4
    assert 'schedule' not in hooks['infobatch']
    assert 'schedule' not in hooks['rs2']
    assert hooks['mine'].schedule.interval == 7
    assert hooks['mine'].cost == {'rescore': 0.5, 'force': True}
    assert made['mine'].train_cfg.max_epochs == 9
    assert hooks['cheap'].cost == {'budget': 'auto', 'force': True}
    grid.methods['cheap']['cost'] = 'dear'
    with pytest.raises(MmacsError, match="cost must be a dict of settings, .*, or 'auto', got 'dear'"):
        base_config(grid)


def test_a_longer_run_has_a_longer_schedule():
    grid = grid_of('retinanet/retinanet_r18_bccd.py', 'rs2', cfg_options={'train_cfg.max_epochs': 20})
    cfg = base_config(grid)
    cfg.param_scheduler = [
        dict(type='LinearLR', by_epoch=False, begin=0, end=50),
        dict(type='MultiStepLR', begin=2, end=20, milestones=[10, 15]),
        dict(type='CosineAnnealingLR', T_max=20),
    ]
    cfg.default_hooks = {'checkpoint': None}
    made = cell_config(grid, cfg, cell('rs2'), epochs=33)
    assert made.train_cfg.max_epochs == 33
    assert made.default_hooks.checkpoint == dict(type='CheckpointHook', interval=1, max_keep_ckpts=1)
    assert made.param_scheduler[0].end == 50
    assert made.param_scheduler[1] == dict(type='MultiStepLR', begin=3, end=33, milestones=[16, 25])
    assert made.param_scheduler[2].T_max == 33


def test_a_config_without_selection_can_be_compared_by_what_scores_nothing_alone():
    made = cell_config(
        grid_of('retinanet/retinanet_r18_bccd.py', 'rs2'), base_config(grid_of(ACS[0], 'rs2')), cell('rs2')
    )
    assert made.train_dataloader.sampler.type == 'mmacs.CoresetSampler'
    base_config(grid_of('retinanet/retinanet_r18_bccd.py', 'rs2'))
    with pytest.raises(MmacsError, match='scorer'):
        base_config(grid_of('retinanet/retinanet_r18_bccd.py', 'mmacs'))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(methods={'a': {'preset': 'margin'}}), "'margin'"),
        (dict(methods={'a': {'preset': 'mmac'}}), "unknown preset 'mmac': did you mean 'mmacs'"),
        (dict(methods={'a': {'preset': 'mmacs', 'schedule': {'intervall': 3}}}), "'intervall'"),
        (dict(methods={'a': {'preset': 'mmacs', 'schedule': 3}}), 'schedule must be a dict'),
        (dict(methods={'a': {'preset': 'mmacs', 'cost': 3}}), 'cost must be a dict'),
        (dict(cfg_options={'train_cg.max_epochs': 3}), "no 'train_cg', did you mean 'train_cfg'"),
        (dict(cfg_options={'train_cfg.by_epoch': False}), 'comparisons count epochs'),
        (dict(config='nowhere.py'), 'no such config: nowhere.py'),
        (dict(cfg_options={'train_cfg.max_epochs': '20'}), "train_cfg.max_epochs must be a whole number, .* got '20'"),
        (dict(cfg_options={'train_dataloader': None}), 'has no train_dataloader: name a config that trains'),
    ],
)
def test_mistakes_are_told_before_the_first_run(changes, message):
    grid = replace(grid_of(ACS[0], 'rs2'), **changes)
    with pytest.raises(MmacsError, match=message):
        base_config(grid)


def test_recipes_need_a_quantized_model():
    grid = grid_of('retinanet/retinanet_r18_bccd.py', 'rs2', recipes={'w4a4': {'preset': 'w4a4'}})
    with pytest.raises(
        MmacsError, match="recipes need a quantized model: .*retinanet_r18_bccd.py has model.type 'RetinaNet'"
    ):
        base_config(grid)


def test_a_run_is_known_by_what_it_depends_on_and_not_by_where_and_how_it_is_made(tmp_path, monkeypatch):
    weights = tmp_path / 'start.pth'
    weights.write_bytes(b'first')
    grid = grid_of(ACS[1], 'rs2', 'mmacs')
    cfg = base_config(grid)

    def known(run=None, data='a', epochs=None, **options):
        changed, run = cfg.copy(), run or cell()
        changed.merge_from_dict({'load_from': str(weights), **options})
        return settings_of(cell_config(grid, changed, run, epochs), run, data)

    before = known()
    assert (
        known(**{'train_dataloader.num_workers': 7, 'default_hooks.coreset.cache_dir': 'x', 'work_dir': 'y'}) == before
    )
    others = [
        known(cell(method='rs2')),
        known(cell(seed=4)),
        known(cell(fraction=0.3)),
        known(data='b'),
        known(epochs=9),
    ]
    others.append(known(**{'optim_wrapper.optimizer.lr': 0.3}))
    with monkeypatch.context() as patch:
        patch.setattr('mmacs.cli.comparison.identity.__version__', '0.1.0')
        others.append(known())
    with monkeypatch.context() as patch:
        patch.setattr(
            'mmacs.cli.comparison.identity.preset', lambda name, kind: {'importance': {'weights': {'ds': 1.0}}}
        )
        others.append(known())
    weights = weights.rename(tmp_path / 'moved.pth')
    assert known() == before
    weights.write_bytes(b'second')
    others.append(known())
    assert len({before, *others}) == len(others) + 1
    weights.unlink()
    with pytest.raises(MmacsError, match='cannot read the checkpoint .*moved.pth .*No such file.*train the config'):
        known()
