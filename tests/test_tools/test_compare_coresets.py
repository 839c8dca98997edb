import importlib.util
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmacs.cli.comparison import TrainingTime, fill, read_data, train
from mmacs.coreset.presets import preset
from mmacs.utils.errors import MmacsError
from mmacs.visualization.comparison import draw_comparison
from tests.conftest import REPO, run_config
from tests.test_configs import choose

ACS = ('retinanet/retinanet_r18_bccd_w4a4_acs.py', 'cifar_resnet/resnet20_cifar10_w4a4_acs.py')


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('compare_coresets', REPO / 'tools' / 'compare_coresets.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def done(ap, training, selection=0.0, **metrics):
    return dict(metrics=dict({'coco/bbox_mAP': ap}, **metrics), training_seconds=training, selection_seconds=selection)


def shipped(name):
    return Config.fromfile(REPO / 'configs' / name)


def test_rows_have_means_over_their_seeds_and_ratios_to_full_data_of_the_same_seeds(tool):
    results = {
        ('full', 1.0): {0: done(0.4, 100.0), 1: done(0.2, 300.0)},
        ('ACS', 0.3): {0: done(0.3, 30.0, 10.0, **{'coco/bbox_mAP_50': 0.5})},
        ('RS2', 0.3): {0: done(0.1, 30.0), 1: done(0.2, 50.0)},
    }
    lines = tool.render(tool.summarise(results)).splitlines()
    heads = 'method | images | mAP | mAP_50 | n | training s | selection s | total s | mAP / full | total / full'
    assert lines[0] == f'| {heads} |'
    assert lines[2] == '| full | 100% | 0.300 ± 0.141 | 0.000 | 2 | 200 | 0 | 200 | 1.000 | 1.000 |'
    assert lines[3] == '| ACS | 30% | 0.300 | 0.500 | 1 | 30 | 10 | 40 | 0.750 | 0.400 |'
    assert lines[4] == '| RS2 | 30% | 0.150 ± 0.071 | 0.000 | 2 | 40 | 0 | 40 | 0.500 | 0.200 |'


@pytest.mark.parametrize('mistake', [dict(interval=3), dict(schedule=dict(intervall=3))])
def test_a_wrong_setting_of_the_hook_is_not_lost_with_the_settings_that_rows_replace(tool, mistake):
    cfg = shipped(ACS[0])
    cfg.default_hooks.coreset.update(mistake)
    with pytest.raises(MmacsError, match='interval'):
        tool.methods_for(cfg)


def test_rows_without_full_data_and_without_any_detection_are_rendered_and_drawn(tool, tmp_path):
    nothing, no_large = dict(done(0.0, 5.0), metrics={}), {'coco/bbox_mAP_l': -1.0}
    records = tool.summarise({('RS2', 0.1): {0: nothing}, ('RS2', 0.3): {0: done(0.1, 5.0, **no_large), 1: nothing}})
    first, second = tool.render(records).splitlines()[2:]
    assert first == '| RS2 | 10% | 0.000 | -1.000 | 1 | 5 | 0 | 5 |  |  |'
    assert second == '| RS2 | 30% | 0.050 ± 0.071 | -1.000 | 2 | 5 | 0 | 5 |  |  |'
    draw_comparison(records, tmp_path / 'comparison.png')
    assert (tmp_path / 'comparison.png').stat().st_size > 0


def test_full_data_that_detects_nothing_has_no_ratio(tool):
    nothing = dict(done(0.0, 10.0), metrics={})
    records = tool.summarise({('full', 1.0): {0: nothing}, ('RS2', 0.3): {0: done(0.1, 5.0)}})
    assert [record['of_full']['metric'] for record in records] == [None, None]
    assert tool.render(records).splitlines()[3] == '| RS2 | 30% | 0.100 | 1 | 5 | 0 | 5 |  | 0.500 |'
    json.dumps(records, allow_nan=False)
    nothing_at_all = tool.summarise({('full', 1.0): {0: nothing}})
    assert tool.render(nothing_at_all).splitlines()[2] == '| full | 100% | 1 | 10 | 0 | 10 |  | 1.000 |'


def test_full_data_is_trained_once_per_seed_and_first(tool):
    cells = tool.order_of(['RS2', 'full'], [0.1, 0.3], [0, 1], 'seed')
    assert cells[:3] == [('full', 1.0, 0), ('RS2', 0.1, 0), ('RS2', 0.3, 0)]
    assert [seed for *_, seed in cells] == [0, 0, 0, 1, 1, 1]
    assert sorted(tool.order_of(['RS2', 'full'], [0.1, 0.3], [0, 1], 'method')) == sorted(cells)
    assert tool.order_of(['RS2'], [0.1, 0.3], [0, 1], 'method')[:2] == [('RS2', 0.1, 0), ('RS2', 0.1, 1)]


def test_repeated_random_is_in_every_comparison(tool):
    assert {'full', 'static', 'RS2'} <= set(tool.DEFAULT)


@pytest.mark.parametrize('config', ACS)
def test_cells_differ_from_the_config_in_what_their_method_changes_alone(tool, tmp_path, config):
    cfg = shipped(config)
    for method, changes in tool.methods_for(cfg).items():
        cell = tool.cell_config(cfg, method, 0.1, 3, tmp_path / method)
        sampler, hook = cell.train_dataloader.sampler, cell.default_hooks.get('coreset')
        assert cell.randomness.seed == 3
        assert cell.train_cfg.max_epochs == cfg.train_cfg.max_epochs
        assert cell.param_scheduler == cfg.param_scheduler
        assert sampler.fraction == (1.0 if method == 'full' else 0.1)
        assert (hook is None) == (method in ('full', 'static', 'RS2'))
        assert sampler.get('redraw', True) == (method != 'static')
        if hook is not None:
            assert 'weights' in changes['importance']  # so that cells of other defaults are not taken for this one's
            theirs = {key: value for key, value in hook.items() if cfg.default_hooks.coreset.get(key) != value}
            assert theirs.keys() <= changes.keys() | {'cost', 'selector', 'schedule'}
            assert hook.cost == {**changes.get('cost', {}), 'force': True}
            assert hook.scorer == cfg.default_hooks.coreset.scorer
    assert cfg.to_dict() == shipped(config).to_dict()


def test_shares_of_the_run_become_whole_epochs(tool, tmp_path):
    cfg = shipped('retinanet/retinanet_r18_bccd_w4a4_acs.py')

    def schedule(method):
        return tool.cell_config(cfg, method, 0.1, 0, tmp_path).default_hooks.coreset.schedule

    assert schedule('InfoBatch').full_data_last == 2  # of 20
    assert schedule('EL2N').warmup == 3
    cfg.train_cfg.max_epochs = 2
    assert schedule('EL2N').warmup == 1


def test_rows_of_any_config_of_a_model_are_the_same_but_for_the_interval(tool, tmp_path):
    usual = shipped('retinanet/retinanet_r18_embedded_w4a4_acs.py')
    for other in ('infobatch', 'afss', 'ccs'):
        cfg = shipped('retinanet/retinanet_r18_embedded_w4a4_acs.py')
        cfg.default_hooks.coreset.update(preset(other, 'detector'))
        cfg.default_hooks.coreset.pop('schedule', None)
        for method in ('ACS', 'InfoBatch', 'AFSS', 'CCS', 'mmacs'):
            rows = [tool.cell_config(own, method, 0.1, 0, tmp_path).default_hooks.coreset for own in (cfg, usual)]
            assert rows[0] == rows[1]


def test_classes_of_classifiers_stay_balanced(tool, tmp_path):
    cfg = shipped('cifar_resnet/resnet20_cifar10_w4a4_acs.py')
    selectors = {
        method: tool.cell_config(cfg, method, 0.1, 0, tmp_path).default_hooks.coreset.selector
        for method in ('ACS', 'CCS', 'mmacs')
    }
    assert {selector['type'] for selector in selectors.values()} == {'mmacs.ClassBalanced'}
    assert [s.get('selector', {}).get('type') for s in selectors.values()] == [
        None,
        'mmacs.Stratified',
        'mmacs.GumbelTopK',
    ]


@pytest.mark.parametrize('config', ACS)
def test_each_row_can_choose_at_each_fraction(tool, tmp_path, config):
    cfg = shipped(config)
    for method in tool.methods_for(cfg).keys() - tool.BASELINES.keys():
        hook = HOOKS.build(tool.cell_config(cfg, method, 0.1, 0, tmp_path).default_hooks.coreset)
        for fraction in (0.1, 0.3, 0.5):
            choose(hook, fraction)


def test_methods_of_detectors_are_not_offered_for_classifiers(tool):
    assert 'gap' not in tool.methods_for(shipped('cifar_resnet/resnet20_cifar10_w4a4_acs.py'))
    assert 'margin' not in tool.methods_for(shipped('retinanet/retinanet_r18_bccd_w4a4_acs.py'))
    with pytest.raises(MmacsError, match=r'name a \*_acs.py'):
        tool.methods_for(shipped('retinanet/retinanet_r18_bccd_w4a4.py'))


def test_training_time_is_that_of_all_epochs_of_a_resumed_run_and_never_of_the_run_before():
    checkpoint = {}
    first = TrainingTime()
    first.before_train_epoch(None)
    first.after_train_epoch(None)
    first.before_save_checkpoint(None, checkpoint)
    assert checkpoint['training_seconds'] > 0
    for iteration, expected in ((7, first.seconds), (0, 0.0)):
        clock = TrainingTime()
        clock.after_load_checkpoint(None, checkpoint)
        clock.before_train(SimpleNamespace(iter=iteration))
        assert clock.seconds == expected


def test_every_training_file_is_read_before_the_first_cell(tiny_coco, tmp_path, monkeypatch):
    read, read_bytes = [], Path.read_bytes
    monkeypatch.setattr(Path, 'read_bytes', lambda path: read.append(path.name) or read_bytes(path))
    cfg = run_config('retinanet_r18_w4a4_acs.py', tiny_coco, tmp_path / 'run')
    cfg.train_dataloader.dataset.filter_cfg = None
    before = read_data(cfg)
    images = [path.name for path in (tiny_coco / 'images').iterdir()]
    assert sorted(name for name in read if name in images) == sorted(2 * images)  # and again
    picture = next((tiny_coco / 'images').iterdir())
    assert read_data(cfg) == before
    picture.write_bytes(picture.read_bytes()[:-1] + b'x')  # of the same size
    assert read_data(cfg) != before


def test_a_cell_knows_what_it_was_computed_from_and_by_which_version(tmp_path, monkeypatch):
    weights = tmp_path / 'start.pth'
    weights.write_bytes(b'first')
    cfg = Config(dict(work_dir='unused', load_from=str(weights)))
    (tmp_path / 'cell').mkdir()

    def run(result, data='a'):
        return fill(cfg, tmp_path / 'cell', {'run': lambda cfg: result}, data)['run']

    assert run(1) == 1
    assert run(2) == 1
    with pytest.raises(MmacsError, match='was computed under other data'):
        run(2, data='b')
    with monkeypatch.context() as patch, pytest.raises(MmacsError, match='or by another version of mmacs'):
        patch.setattr('mmacs.cli.comparison.__version__', '0.1.0')
        run(2)
    weights.write_bytes(b'second')
    with pytest.raises(MmacsError, match='was computed under other settings'):
        run(2)
    for damaged in ('{"sett', '[]', '{"settings": 5}', '[' * 100_000):
        (tmp_path / 'cell' / 'result.json').write_text(damaged)
        with pytest.raises(MmacsError, match='result.json is damaged .*delete it, and its cell is computed anew'):
            run(2)


class SlowAfterEpochs(Hook):
    priority = 'HIGH'

    def after_train_epoch(self, runner):
        time.sleep(0.2)


def test_training_time_leaves_out_what_other_hooks_do_after_an_epoch():
    runner, clock = Runner.__new__(Runner), TrainingTime()
    runner._hooks = []
    for hook in (SlowAfterEpochs(), clock):
        runner.register_hook(hook)
    runner.call_hook('before_train_epoch')
    runner.call_hook('after_train_epoch')
    assert clock.seconds < 0.2


class KilledOnce(Hook):
    priority = 'LOWEST'  # after the checkpoint

    def __init__(self):
        self.epochs = []

    def after_train_epoch(self, runner):
        self.epochs.append(runner.epoch)
        if len(self.epochs) == 1:
            raise KeyboardInterrupt


def test_a_killed_cell_goes_on_from_its_last_epoch_and_its_seconds(full_precision, tiny_coco, tmp_path):
    cfg = run_config('retinanet_r18_w4a4_acs.py', tiny_coco, tmp_path / 'cell', load_from=str(full_precision))
    cfg.default_hooks.pop('coreset')
    cfg.launcher = 'none'
    killed, before, after = KilledOnce(), TrainingTime(), TrainingTime()
    with pytest.raises(KeyboardInterrupt):
        train(cfg.copy(), before, killed)
    train(cfg.copy(), after, killed)
    assert killed.epochs == [0, 1]
    assert after.seconds > before.seconds > 0


def test_cells_are_trained_once_and_never_under_other_settings(command, full_precision, tiny_coco, tmp_path):
    config, folder = tmp_path / 'config.py', tmp_path / 'table'
    cfg = run_config('retinanet_r18_w4a4_acs.py', tiny_coco, tmp_path / 'run', load_from=str(full_precision))
    cfg.train_cfg.max_epochs = 1
    cfg.dump(config)
    options = [config, '--work-dir', folder, '--methods', 'static', '--fractions', '0.5', '--seeds', '1']
    assert command('compare_coresets.py', *options) == (0, '')
    file = folder / 'static_0.5_seed1' / 'result.json'
    result = json.loads(file.read_text())['run']
    assert (result['seed'], result['selection_seconds'], result['digests']) == (1, 0.0, [])
    assert result['training_seconds'] > 0
    assert {'coco/bbox_mAP', 'coco/bbox_mAP_s'} < result['metrics'].keys()
    (row,) = json.loads((folder / 'table.json').read_text())['rows']
    assert (row['method'], row['fraction'], row['seeds']) == ('static', 0.5, [1])
    assert '| static | 50% |' in (folder / 'table.md').read_text()
    before = file.stat().st_mtime_ns
    assert command('compare_coresets.py', *options) == (0, '')
    assert file.stat().st_mtime_ns == before
    status, message = command('compare_coresets.py', *options, '--cfg-options', 'train_cfg.max_epochs=2')
    assert status == 1
    assert 'was computed under other settings, or by another version of mmacs: choose another --work-dir' in message
    status, message = command('compare_coresets.py', config, '--methods', 'random')
    assert "unknown method 'random'" in message
