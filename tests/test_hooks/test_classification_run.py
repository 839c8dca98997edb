"""A whole run of a classifier on the embedded tiles: the same wrapper, hooks and sampler, another scorer."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from mmacs.coreset import normalise
from mmacs.quantization import quantizers
from tests.conftest import REPO, change_coreset

pytest.importorskip('mmpretrain')


def test_w4a4_on_a_class_balanced_coreset(tmp_path):
    DefaultScope._instance_dict.clear()
    cfg = Config.fromfile(REPO / 'configs' / 'cifar_resnet' / 'resnet20_embedded_w4a4_acs.py')
    cfg.load_from = None
    cfg.work_dir = str(tmp_path / 'run')
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.num_workers, loader.persistent_workers = 0, False
        loader.dataset.data_root = str(tmp_path / 'data')
        loader.dataset.spec = dict(num_train=100, num_test=20)
    cfg.train_cfg.update(max_epochs=2, val_interval=2)
    change_coreset(cfg, schedule=dict(interval=1), cost=dict(force=True))
    cfg.randomness = dict(seed=0)
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert all(quantizer.is_initialized() for _, quantizer in quantizers(runner.model))
    first, second = (dict(np.load(tmp_path / 'run' / 'coreset' / f'round_00{n}.npz')) for n in (0, 1))
    dataset = runner.train_dataloader.dataset
    labels = np.array([dataset.get_data_info(i)['gt_label'] for i in range(100)])
    for record in (first, second):
        assert len(record['indices']) == 30
        shares = np.bincount(labels[record['indices']], minlength=10) - 0.3 * np.bincount(labels, minlength=10)
        assert (np.abs(shares) < 1).all()
        assert all(np.abs(record[f'score_{name}']).max() <= 2**0.5 + 1e-6 for name in ('reducible_error', 'ds'))
    # beta is 1 at the start: importance is the rank of the reducible error
    np.testing.assert_array_equal(first['importance'], normalise(first['score_reducible_error'], 'rank'))
    assert 0 <= runner.message_hub.get_scalar('val/accuracy/top1').current() <= 100
    assert torch.isfinite(next(runner.model.parameters())).all()
