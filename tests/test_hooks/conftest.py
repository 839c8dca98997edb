"""Fixtures of whole runs."""

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmacs.models.quantized_model import full_precision_config
from tests.conftest import REPO, change_coreset


@pytest.fixture(scope='module')
def tiles(tmp_path_factory):
    return tmp_path_factory.mktemp('tiles')


@pytest.fixture
def classifier(tiles, tmp_path):
    """Config of a small classifier on half of 64 tiles, 16 to a batch, without weights to start from."""

    def config(name: str, epochs: int, **coreset) -> Config:
        DefaultScope._instance_dict.clear()
        cfg = Config.fromfile(REPO / 'configs' / 'cifar_resnet' / 'resnet20_embedded_w4a4_acs.py')
        cfg.load_from = None
        cfg.work_dir = str(tmp_path / name)
        two_stages = dict(num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(1,))
        model = full_precision_config(cfg.model)
        model['backbone'].clear()
        model['backbone'].update(type='ResNet_CIFAR', depth=18, stem_channels=8, base_channels=8, **two_stages)
        model['head'].in_channels = 16
        for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
            loader.update(num_workers=0, persistent_workers=False, batch_size=16)
            loader.dataset.update(data_root=str(tiles), spec=dict(num_train=128, num_test=10))
            loader.dataset.pipeline = [dict(type='PackInputs')]
        cfg.train_dataloader.dataset.indices = 64
        cfg.train_dataloader.sampler.fraction = 0.5
        cfg.train_cfg.update(max_epochs=epochs, val_interval=100)
        cfg.param_scheduler = None
        cfg.default_hooks.logger.interval = 1
        change_coreset(cfg, schedule=dict(interval=1), cost=dict(force=True), selector=dict(type='mmacs.TopK'))
        change_coreset(cfg, **coreset)
        cfg.randomness = dict(seed=0)
        return cfg

    return config
