"""Runs under augmentation resume bit for bit, train on the coreset alone, and don't see whether they are evaluated."""

import random
import shutil
from pathlib import Path

import mmengine.runner.loops
import numpy as np
import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from mmengine.runner import Runner
from torch.utils.data import Dataset

from mmacs.hooks.draws_hook import draw_by_step
from mmacs.hooks.run import coreset_sampler
from mmacs.utils.checkpoint_file import read_checkpoint
from tests.conftest import SHIPPED, write_coco

SCALE = (64, 64)


class Reads(Hook):
    """Counts the images that an epoch reads, and knows the coreset of the epoch."""

    priority = 'LOWEST'

    def __init__(self, monkeypatch):
        self.read, self.epochs = [], []
        load = LoadImageFromFile.transform

        def count(transform, results):
            self.read.append(Path(results['img_path']).name)
            return load(transform, results)

        monkeypatch.setattr(LoadImageFromFile, 'transform', count)

    def before_train_epoch(self, runner):
        self.read.clear()

    def after_train_epoch(self, runner, metrics=None):
        infos = map(runner.train_dataloader.dataset.get_data_info, coreset_sampler(runner).indices.tolist())
        self.epochs.append((list(self.read), {Path(info['img_path']).name for info in infos}))


def small(pipeline):
    """A pipeline of MMDetection's for images of 640 pixels, for tiny ones."""
    for transform in pipeline:
        if 'border' in transform:
            transform.border = (-SCALE[0] // 2, -SCALE[1] // 2)
        for key in ('img_scale', 'scale', 'crop_size', 'size'):
            if isinstance(transform.get(key), tuple):
                transform[key] = SCALE
    return pipeline


@pytest.fixture
def config(tmp_path):
    """One of MMDetection's own configs, narrowed, on 20 images: a coreset of 8 for two epochs, then another."""
    write_coco(tmp_path / 'coco', [(64, 96), (96, 64), (64, 64), (80, 80)] * 5, [1, 2, 3, 1] * 5)

    def make(name, work_dir, **changes):
        cfg = Config.fromfile(SHIPPED / name)
        cfg.default_scope, cfg.custom_imports = 'mmdet', dict(imports=['mmacs'], allow_failed_imports=False)
        cfg.model.backbone.update(widen_factor=0.125, deepen_factor=0.167, init_cfg=None)
        cfg.model.neck.update(in_channels=[32, 64, 128], out_channels=32)
        cfg.model.bbox_head.update(num_classes=3, in_channels=32, feat_channels=32)
        for part in (cfg.model.backbone, cfg.model.neck, cfg.model.bbox_head):
            part.norm_cfg = dict(type='BN')
        for augment in cfg.model.data_preprocessor.get('batch_augments') or ():
            augment.update(random_size_range=(96, 128), interval=2)
        data = dict(
            data_root=str(tmp_path / 'coco'),
            ann_file='annotations.json',
            data_prefix=dict(img='images'),
            metainfo=dict(classes=('a', 'b', 'c')),
        )
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            loader.update(batch_size=4, num_workers=0, persistent_workers=False, pin_memory=False)
            small(loader.dataset.pipeline)
            loader.dataset.get('dataset', loader.dataset).update(data)
        cfg.val_evaluator.ann_file = str(tmp_path / 'coco' / 'annotations.json')
        cfg.test_dataloader, cfg.test_evaluator, cfg.tta_model = cfg.val_dataloader, cfg.val_evaluator, None
        cfg.train_dataloader.sampler = dict(type='mmacs.CoresetSampler', fraction=0.4)
        cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=3, val_begin=9)
        cfg.param_scheduler = []
        cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
        cfg.default_hooks.coreset = dict(
            type='mmacs.CoresetHook',
            scorer=dict(type='mmacs.DenseDetectionScorer'),
            importance=dict(weights=dict(evs=1.0)),
            schedule=dict(interval=2),
            cost=dict(force=True),
        )
        for hook in cfg.custom_hooks:
            if hook.type == 'YOLOXModeSwitchHook':
                hook.num_last_epochs = 0
            if hook.type == 'PipelineSwitchHook':
                hook.switch_epoch = 2
                small(hook.switch_pipeline)
        cfg.randomness = dict(seed=0)
        cfg.work_dir = str(tmp_path / work_dir)
        cfg.merge_from_dict(changes)
        return cfg

    return make


def train(cfg, *hooks):
    runner = Runner.from_cfg(cfg)
    for hook in hooks:
        runner.register_hook(hook)
    runner.train()
    return runner


def outcome(runner):
    """Weights, averaged ones too, and the state of the optimizer."""
    checkpoint = read_checkpoint(Path(runner.work_dir) / 'epoch_3.pth')
    parts = {**checkpoint['state_dict'], **checkpoint.get('ema_state_dict', {})}
    states = checkpoint['optimizer']['state']
    return {**parts, **{f'{i}.{key}': value for i, state in states.items() for key, value in state.items()}}


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert [
        key for key, value in one.items() if not torch.equal(torch.as_tensor(value), torch.as_tensor(other[key]))
    ] == []


@pytest.mark.parametrize(
    ('name', 'says', 'more'),
    [
        ('yolox/yolox_s_8xb8-300e_coco.py', 'Mosaic and MixUp take their partners from the coreset.', 24 + 8),
        ('rtmdet/rtmdet_tiny_8xb32-300e_coco.py', 'CachedMosaic and CachedMixUp take their partners from the', 24),
    ],
)
def test_mixed_images_are_of_the_coreset_also_after_resuming(config, tmp_path, monkeypatch, name, says, more):
    with monkeypatch.context() as patch:
        reads = Reads(patch)
        whole = train(config(name, 'whole'), reads)
    assert says in next((tmp_path / 'whole').glob('*/*.log')).read_text()
    assert all(set(read) == coreset for read, coreset in reads.epochs)
    assert [len(read) >= 8 + more for read, _ in reads.epochs] == [True, True, False]  # then it is switched off

    start = tmp_path / 'resumed' / 'epoch_1.pth'
    start.parent.mkdir()
    shutil.copy(tmp_path / 'whole' / 'epoch_1.pth', start)
    workers = {'train_dataloader.num_workers': 2}
    resumed = train(config(name, 'resumed', load_from=str(start), resume=True, **workers))
    assert_same(outcome(resumed), outcome(whole))


# -------------------------------------------------------------------- what draws in the main process, other samplers
@DATASETS.register_module()
class Numbers(Dataset):
    """Numbers to which noise is added, by each of the generators that transforms use."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return torch.tensor([index, random.random(), np.random.rand(), torch.rand(())])


@MODELS.register_module()
class Dropping(BaseModel):
    """Draws in training by each of the generators, and in evaluation too."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def forward(self, *inputs, mode='tensor'):
        values = self.layer(torch.nn.functional.dropout(torch.stack(inputs), 0.5))
        return dict(loss=values.square().mean() * random.random() * np.random.rand())

    def val_step(self, data):
        self(*data)
        return [0]


@METRICS.register_module()
class Nothing(BaseMetric):
    def process(self, data_batch, data_samples):
        pass

    def compute_metrics(self, results):
        return {}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs 15 iterations of 2 numbers, or goes on with them; returns the weights."""

    monkeypatch.setattr(mmengine.runner.loops.time, 'sleep', lambda seconds: None)  # between passes

    def run(sampler, by_epoch, resume_at=None, workers=0, evaluate=False):
        unit = 'epoch' if by_epoch else 'iter'
        loader = dict(dataset=dict(type='Numbers'), batch_size=2, sampler=dict(type=sampler), num_workers=workers)
        cfg = dict(
            model=dict(type='Dropping'),
            work_dir=str(tmp_path),
            train_dataloader=loader,
            train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=3)
            if by_epoch
            else dict(type='IterBasedTrainLoop', max_iters=15, val_interval=2),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=by_epoch, interval=1)),
            experiment_name=f'run_{random.random()}',
            load_from=None if resume_at is None else str(tmp_path / f'{unit}_{resume_at}.pth'),
            resume=resume_at is not None,
        )
        if evaluate:
            loader = dict(dataset=dict(type='Numbers'), sampler=dict(type='DefaultSampler', shuffle=True))
            cfg.update(val_cfg=dict(), val_dataloader=loader, val_evaluator=dict(type='Nothing'))
        if resume_at is None:
            cfg['randomness'] = dict(seed=4)
        runner = Runner.from_cfg(Config(cfg))
        draw_by_step(runner)
        if resume_at is None:
            torch.nn.init.ones_(runner.model.layer.weight)
            runner._has_loaded = True
        runner.train()
        return runner.model.state_dict()

    return run


@pytest.mark.parametrize(('sampler', 'by_epoch', 'stop'), [('DefaultSampler', True, 2), ('InfiniteSampler', False, 7)])
def test_nothing_depends_on_workers_interruptions_and_evaluations(run, sampler, by_epoch, stop):
    expected = run(sampler, by_epoch)
    assert_same(run(sampler, by_epoch, workers=2, evaluate=True), expected)
    assert_same(run(sampler, by_epoch, stop), expected)
