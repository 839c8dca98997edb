"""Runs whose epochs differ in size, of a model of one weight."""

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from mmacs.coreset.sampler import CoresetSampler  # noqa: F401  (registers it)
from mmacs.hooks.resume_hook import follow_config
from mmacs.utils.errors import MmacsError

EPOCHS, IMAGES = 5, 50
COSINE = dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=True, convert_to_iter_based=True)
FRACTION = dict(type='cosine', start=0.7, end=0.1)


class Tiny(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return dict(loss=self.layer(torch.stack(inputs).float()).square().mean())


class Seen(Hook):
    """Keeps epoch, length of the loader, learning rate and images of each iteration."""

    def __init__(self):
        self.rows = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        images = tuple(int(one) for one in data_batch['inputs'])
        lr = runner.optim_wrapper.param_groups[0]['lr']
        self.rows.append((runner.epoch, len(runner.train_dataloader), lr, images))


@pytest.fixture
def train(tmp_path):
    def run(name, fraction=FRACTION, epochs=EPOCHS, resume=None, ours=True, drop_last=False, schedule=COSINE, **loop):
        data = [dict(inputs=torch.tensor([float(i)]), data_samples=0) for i in range(IMAGES)]
        sampler = dict(type='mmacs.CoresetSampler', fraction=fraction, seed=3)
        runner = Runner(
            Tiny(),
            str(tmp_path / name),
            train_dataloader=dict(batch_size=4, dataset=data, sampler=sampler, drop_last=drop_last),
            train_cfg=loop or dict(by_epoch=True, max_epochs=epochs),
            optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1)),
            param_scheduler=[dict(schedule)],
            default_hooks=dict(logger=None, checkpoint=dict(type='CheckpointHook', interval=1)),
            load_from=None if resume is None else str(tmp_path / resume),
            resume=resume is not None,
            experiment_name=f'fraction_{tmp_path.name}_{name}',
        )
        if ours:
            follow_config(runner)
        seen = Seen()
        runner.register_hook(seen)
        runner.train()
        return runner, seen.rows

    return run


@pytest.mark.parametrize('drop_last', [False, True])
def test_epochs_differ_and_run_and_schedule_end_together(train, drop_last):
    constant, plain = train('constant', 0.4, drop_last=drop_last)
    runner, rows = train('cosine', drop_last=drop_last)
    assert runner.iter == runner.max_iters == constant.iter
    assert [row[2] for row in rows] == [row[2] for row in plain]  # a cosine that ends at its end
    assert 0 < rows[-1][2] < 0.01 * 0.1
    by_epoch = [[row for row in rows if row[0] == epoch] for epoch in range(EPOCHS)]
    assert all(len(epoch) == epoch[0][1] for epoch in by_epoch)  # what progress is counted against
    images = [[image for row in epoch for image in row[3]] for epoch in by_epoch]
    assert all(len(set(one)) == len(one) for one in images)
    sizes = [len(one) for one in images]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] >= 30 and sizes[-1] <= 10
    assert sum(sizes) == sum(len(row[3]) for row in plain)


def test_a_resumed_run_goes_on_as_if_nothing_had_been(train):
    _, whole = train('whole')
    _, rest = train('rest', resume='whole/epoch_2.pth')
    assert rest == [row for row in whole if row[0] >= 2]
    _, longer = train('longer', epochs=8)
    _, end = train('end', epochs=8, resume='whole/epoch_2.pth')  # its schedule is another one: it is replayed
    assert [row[2:] for row in end] == [row[2:] for row in longer if row[0] >= 2]


def test_what_cannot_be_is_refused_in_one_sentence(train):
    with pytest.raises(MmacsError, match='needs to know the number of epochs: train by .mmacs train.'):
        train('unknown', ours=False)
    with pytest.raises(MmacsError, match='is a schedule over epochs, and IterBasedTrainLoop counts none'):
        train('iterations', by_epoch=False, max_iters=9, schedule=dict(type='ConstantLR', by_epoch=False, factor=0.5))
