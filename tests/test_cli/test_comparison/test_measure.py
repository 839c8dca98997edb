import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmacs.cli.comparison import measure
from mmacs.cli.comparison.data import read_data
from mmacs.cli.comparison.measure import TrainingTime, train
from mmacs.utils.errors import MmacsError
from tests.conftest import run_config
from tests.test_tools.conftest import full_precision  # noqa: F401, a fixture


def test_sums_are_those_of_all_epochs_of_a_resumed_run_and_never_of_the_run_before():
    checkpoint = {}
    first = TrainingTime()
    first.before_train_epoch(None)
    first.after_train_iter(None, 0, dict(inputs=np.zeros(3)))
    first.after_train_epoch(None)
    first.before_save_checkpoint(None, checkpoint)
    assert checkpoint['training_seconds'] > 0
    assert checkpoint['trained_images'] == 3
    for iteration, expected in ((7, (first.seconds, 3)), (0, (0.0, 0))):
        clock = TrainingTime()
        clock.after_load_checkpoint(None, checkpoint)
        clock.before_train(SimpleNamespace(iter=iteration))
        assert (clock.seconds, clock.images) == expected


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


def test_a_killed_run_goes_on_from_its_last_epoch_with_its_seconds_and_images(full_precision, tiny_coco, tmp_path):  # noqa: F811
    cfg = run_config('retinanet_r18_w4a4_acs.py', tiny_coco, tmp_path / 'cell', load_from=str(full_precision))
    cfg.default_hooks.pop('coreset')
    cfg.launcher = 'none'
    killed, before, after = KilledOnce(), TrainingTime(), TrainingTime()
    with pytest.raises(KeyboardInterrupt):
        train(cfg.copy(), before, killed)
    train(cfg.copy(), after, killed)
    assert killed.epochs == [0, 1]
    assert after.seconds > before.seconds > 0
    assert after.images == 2 * before.images > 0


def test_a_metric_that_is_no_number_ends_a_run(monkeypatch):
    monkeypatch.setattr(measure, '_calibrated', lambda cfg, in_full_precision: {'AP': float('nan')})
    with pytest.raises(MmacsError, match='the evaluator gives no number: AP nan'):
        measure.measure(None, 'ptq')


def test_every_file_is_read_before_the_first_run_and_other_contents_are_other_data(tiny_coco, tmp_path, monkeypatch):
    read, read_bytes = [], Path.read_bytes
    monkeypatch.setattr(Path, 'read_bytes', lambda path: read.append(path.name) or read_bytes(path))
    cfg = run_config('retinanet_r18_w4a4_acs.py', tiny_coco, tmp_path / 'run')
    cfg.train_dataloader.dataset.filter_cfg = None
    before = read_data(cfg)
    images = [path.name for path in (tiny_coco / 'images').iterdir()]
    assert sorted(name for name in read if name in images) == sorted(2 * images)  # and again
    moved = run_config('retinanet_r18_w4a4_acs.py', tiny_coco.rename(tmp_path / 'moved'), tmp_path / 'run')
    moved.train_dataloader.dataset.filter_cfg = None
    assert read_data(moved) == before
    picture = next((tmp_path / 'moved' / 'images').iterdir())
    picture.write_bytes(picture.read_bytes()[:-1] + b'x')  # of the same size
    assert read_data(moved) != before
