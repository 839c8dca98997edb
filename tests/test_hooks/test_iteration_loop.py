"""Runs of MMEngine's iteration-based loop on a coreset that a small hook changes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Dataset

from mmacs.coreset import CoresetSampler
from mmacs.hooks.iteration_loop import CoresetIterator
from mmacs.utils.errors import MmacsError

BUCKETS = dict(type=AspectRatioBatchSampler)


class Images(Dataset):
    """Each image is its index; two of three are landscapes."""

    metainfo = {}

    def __init__(self):
        self.loaded = []

    def __len__(self):
        return 24

    def __getitem__(self, index):
        self.loaded.append(index)
        return torch.tensor(index)

    def get_data_info(self, index):
        return dict(width=2 + index % 3, height=3)


class Model(BaseModel):
    """Keeps the images of each training step."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.steps = []

    def forward(self, inputs, mode):
        return dict(loss=self.weight)

    def train_step(self, data, optim_wrapper):
        self.steps.append([int(index) for index in data])
        return super().train_step(dict(inputs=data), optim_wrapper)


class Rounds(Hook):
    """Every few iterations, a third of the images; with ``redraw`` a third for each pass too."""

    def __init__(self, every, redraw=False):
        self.every, self.redraw = every, redraw
        self.state, self.at = None, []

    def before_train(self, runner):
        self.runner, self.sampler = runner, sampler_of(runner.train_dataloader)
        loader = runner.train_dataloader
        self.iterator = CoresetIterator(loader, self.sampler, self.hold, self.draw if self.redraw else None)
        if self.state is not None:
            self.sampler.set_indices(self.state['indices'].numpy())
            self.iterator.load_state_dict(self.state['iterator'])
        self.iterator.install(runner.train_loop)

    def hold(self):
        due = self.runner.iter % self.every == 0
        if due:
            self.at.append(self.runner.iter)
            self.choose(self.runner.iter)
        return due

    def draw(self, number):
        self.choose(1000 + number)

    def choose(self, seed):
        self.sampler.set_indices(np.random.default_rng(seed).permutation(24)[:8])

    def before_save_checkpoint(self, runner, checkpoint):
        indices = torch.from_numpy(self.sampler.indices)
        checkpoint['rounds'] = dict(indices=indices, iterator=self.iterator.state_dict())

    def after_load_checkpoint(self, runner, checkpoint):
        self.state = checkpoint['rounds']


def sampler_of(loader):
    return loader.sampler if isinstance(loader.sampler, CoresetSampler) else loader.batch_sampler.sampler


@pytest.fixture
def train(tmp_path):
    """Runs 17 iterations of 3 images, or resumes them; returns model, hook and data set."""

    def run(hook, resume_at=None, workers=0, batch_sampler=None):
        loader = dict(dataset=Images(), batch_size=3, num_workers=workers, persistent_workers=workers > 0)
        loader['sampler'] = dict(type='mmacs.CoresetSampler', fraction=1 / 3)
        if batch_sampler is not None:
            loader['batch_sampler'] = batch_sampler
        runner = Runner(
            model=Model(),
            work_dir=str(tmp_path),
            train_dataloader=Runner.build_dataloader(loader, seed=3),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=17),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1)),
            custom_hooks=[hook],
            load_from=None if resume_at is None else str(tmp_path / f'iter_{resume_at}.pth'),
            resume=resume_at is not None,
            experiment_name=f'run_{resume_at}',
            log_level='ERROR',
        )
        runner.train()
        if workers:  # now, rather than by the garbage collector, which torch's workers answer after seconds
            hook.iterator._iterator._shutdown_workers()
        return runner.model.steps, hook, runner.train_dataloader.dataset

    return run


@pytest.mark.parametrize('batch_sampler', [None, BUCKETS])
@pytest.mark.parametrize('workers', [0, 2])
def test_passes_and_rounds(train, workers, batch_sampler):
    steps, hook, _ = train(Rounds(every=7), workers=workers, batch_sampler=batch_sampler)
    assert hook.at == [0, 7, 14]
    for start in hook.at:  # after a round none of the old coreset is seen, and each pass shows the whole new one
        coreset = sorted(np.random.default_rng(start).permutation(24)[:8].tolist())
        first, second = steps[start : start + 3], steps[start + 3 : start + 6]
        assert sorted(sum(first, [])) == coreset
        if start < 14:
            assert sorted(sum(second, [])) == coreset and second != first
            assert set(steps[start + 6]) <= set(coreset)
    assert hook.iterator.state_dict() == dict(passes=7, taken=3)


@pytest.mark.parametrize(
    ('workers', 'batch_sampler', 'redraw'), [(0, None, False), (0, BUCKETS, True), (2, BUCKETS, True), (2, None, False)]
)
def test_a_resumed_run_sees_what_the_uninterrupted_one_saw(train, workers, batch_sampler, redraw):
    whole, _, _ = train(Rounds(7, redraw), workers=workers, batch_sampler=batch_sampler)
    # after the 1st, 2nd and last batch of a pass, at a round, and after one
    for stop in (4, 5, 6, 7, 8) if workers == 0 else (5,):
        steps, hook, data = train(Rounds(7, redraw), stop, workers, batch_sampler)
        assert steps == whole[stop:]
        assert hook.at == [due for due in (7, 14) if due >= stop]
        if workers == 0:
            assert data.loaded == sum(steps, [])  # nothing was loaded to get there


def test_each_pass_of_a_redrawn_coreset_is_announced_before_its_order_is_fixed(train):
    steps, hook, _ = train(Rounds(every=100, redraw=True))
    for number in range(5):
        drawn = np.random.default_rng(1000 + number).permutation(24)[:8]
        assert sorted(sum(steps[3 * number : 3 * number + 3], [])) == sorted(drawn.tolist())


def stream(batch_size=3, drop_last=False, before_batch=lambda: False):
    data = Images()
    sampler = CoresetSampler(data, 1 / 3, seed=0)
    loader = DataLoader(data, batch_size, sampler=sampler, drop_last=drop_last)
    return CoresetIterator(loader, sampler, before_batch), data


def test_a_loop_that_steps_to_where_it_stood_neither_loads_nor_holds_rounds():
    """MMEngine 0.10.7 calls next once for each iteration of the past."""
    whole, _ = stream()
    batches = [next(whole).tolist() for _ in range(6)]
    asked = []
    resumed, data = stream(before_batch=lambda: bool(asked.append(1)))
    resumed.load_state_dict(dict(passes=2, taken=1))
    loop = SimpleNamespace(iter=4, dataloader_iterator=iter([]))
    resumed.install(loop)
    for _ in range(4):
        next(loop.dataloader_iterator)
    assert asked == data.loaded == []
    assert [next(resumed).tolist() for _ in range(2)] == batches[4:]


def test_workers_that_persist_serve_all_passes():
    data = Images()
    sampler = CoresetSampler(data, 1 / 3, seed=0)
    loader = DataLoader(data, 3, sampler=sampler, num_workers=1, persistent_workers=True)
    changed = iter([False, False, True, False, False, False])
    batches = CoresetIterator(loader, sampler, lambda: next(changed))
    seen = set()
    for _ in range(6):
        next(batches)
        seen |= {worker.pid for worker in batches._iterator._workers}
    assert batches.passes == 3 and len(seen) == 1


def test_a_coreset_smaller_than_a_batch():
    with pytest.raises(MmacsError, match='smaller than one batch'):
        next(stream(batch_size=9, drop_last=True)[0])
