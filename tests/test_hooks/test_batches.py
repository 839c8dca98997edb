"""Coresets that do not fit the batches, mixed precision without a GPU, hooks that are left out."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmacs.cli import runs
from mmacs.cli.runs import build_runner, compute_in_bfloat16
from mmacs.models.quantized_model import full_precision_config
from mmacs.quantization import quantizers
from mmacs.utils.errors import MmacsError
from tests.conftest import REPO


@pytest.fixture(scope='module')
def tiles(tmp_path_factory):
    return tmp_path_factory.mktemp('tiles')


@pytest.fixture
def config(tiles, tmp_path):
    """A classifier that sees 1 x 1 pixel in its last stage, on 17 of 34 tiles."""
    DefaultScope._instance_dict.clear()
    cfg = Config.fromfile(REPO / 'configs' / 'cifar_resnet' / 'resnet20_embedded_w4a4_acs.py')
    cfg.load_from, cfg.launcher, cfg.work_dir = None, 'none', str(tmp_path / 'run')
    model = full_precision_config(cfg.model)
    model['backbone'].clear()
    stages = dict(num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(1,))
    model['backbone'].update(type='ResNet_CIFAR', depth=18, stem_channels=8, base_channels=8, **stages)
    model['head'].in_channels = 16
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.num_workers, loader.persistent_workers, loader.batch_size = 0, False, 8
        loader.dataset.data_root = str(tiles)
        loader.dataset.spec = dict(num_train=34, num_test=20)
    cfg.train_dataloader.sampler.fraction = 0.5
    cfg.train_cfg.update(max_epochs=1, val_interval=5)
    cfg.default_hooks.coreset.cost = dict(force=True)
    cfg.default_hooks.quantization = dict(type='mmacs.QuantizationHook', num_images=8)
    return cfg


def train(cfg):
    runner = build_runner(cfg, ['train_dataloader', 'val_dataloader'])
    runs.train(runner)
    return runner


@pytest.mark.parametrize('coreset', [True, False])
def test_a_last_image_that_batch_norm_cannot_train_on_is_told_before_training(config, coreset):
    if not coreset:
        config.default_hooks.coreset = None
        config.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=True)
        config.train_dataloader.batch_size = 33
    for loader in (config.train_dataloader, config.val_dataloader):
        loader.dataset.pipeline = [dict(type='CenterCrop', crop_size=2), *loader.dataset.pipeline]
    with pytest.raises(
        MmacsError, match='holds a single image .(17 in batches of 8|34 in batches of 33)., which BatchNorm'
    ):
        train(config)


def test_a_coreset_that_gives_no_batch_is_told_before_training(config):
    config.train_dataloader.update(batch_size=20, drop_last=True)
    with pytest.raises(MmacsError, match='an epoch has no batch: drop_last drops all images'):
        train(config)


def test_mixed_precision_on_a_cpu_and_hooks_that_are_left_out(config):
    config.default_hooks.coreset = None
    config.custom_hooks = [None]
    config.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
    runner = train(config)  # and one image in the last batch, which this model trains on
    assert type(runner.optim_wrapper).__name__ == 'CpuAmpOptimWrapper'
    assert not any(type(hook).__name__ == 'CoresetHook' for hook in runner.hooks)
    assert all(torch.isfinite(value).all() for value in runner.model.state_dict().values())
    assert all(quantizer.is_initialized() for _, quantizer in quantizers(runner.model))
    with runner.optim_wrapper.optim_context(runner.model):
        assert torch.is_autocast_enabled('cpu') and torch.get_autocast_dtype('cpu') is torch.bfloat16


def test_half_precision_needs_a_gpu():
    with pytest.raises(MmacsError, match="optim_wrapper.dtype='float16' needs a GPU"):
        compute_in_bfloat16(Config(dict(optim_wrapper=dict(type='AmpOptimWrapper', dtype='float16'))))
