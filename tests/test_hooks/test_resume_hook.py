"""Resumed runs of a model of one weight: what of another config is followed, and what is said."""

import logging
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import nn

from mmacs.hooks.resume_hook import ResumeHook, follow_config

COSINE = [dict(type='CosineAnnealingLR', T_max=2, eta_min=1e-5, by_epoch=True, convert_to_iter_based=True)]
SGD = dict(type='SGD', lr=0.1, momentum=0.9)


SAYS = ('Resumed with', 'The checkpoint is of the end')


class Tiny(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return dict(loss=self.layer(torch.stack(inputs).float()).square().mean())


class Values(Hook):
    """Keeps settings of the first parameter group in each iteration."""

    def __init__(self, *names):
        self.names, self.seen = names, []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        group = runner.optim_wrapper.param_groups[0]
        self.seen.append(tuple(group[name] for name in self.names))


@pytest.fixture
def train(tmp_path):
    """Trains 4 images, 2 to a batch; resumed if a checkpoint is given. Returns settings by iteration and warnings."""

    def run(name, epochs, schedule=COSINE, optimizer=SGD, resume=None, names=('lr',), batch=2, by_epoch=True, **others):
        data = [dict(inputs=torch.tensor([float(i)]), data_samples=0) for i in range(4)]
        loop = dict(by_epoch=True, max_epochs=epochs) if by_epoch else dict(by_epoch=False, max_iters=2 * epochs)
        sampler = 'DefaultSampler' if by_epoch else 'InfiniteSampler'
        every = dict(interval=1) if by_epoch else dict(interval=2, by_epoch=False)
        runner = Runner(
            Tiny(),
            str(tmp_path / name),
            train_dataloader=dict(batch_size=batch, dataset=data, sampler=dict(type=sampler, shuffle=False)),
            train_cfg=loop,
            optim_wrapper=dict(type='OptimWrapper', optimizer=optimizer, **others),
            param_scheduler=schedule,
            default_hooks=dict(logger=None, checkpoint=dict(type='CheckpointHook', **every)),
            load_from=None if resume is None else str(resume),
            resume=resume is not None,
            experiment_name=name,
        )
        said, values = [], Values(*names)
        runner.logger.warning = lambda text, *_, **__: said.append(text) if text.startswith(SAYS) else None
        follow_config(runner)
        follow_config(runner)
        assert sum(isinstance(hook, ResumeHook) for hook in runner.hooks) == 1
        runner.register_hook(values)
        runner.train()
        return values.seen, said

    return run


@pytest.fixture
def half(train, tmp_path):
    """A checkpoint of epoch 2 of 2."""
    train('half', 2, names=('lr', 'weight_decay'))
    return tmp_path / 'half' / 'epoch_2.pth'


@pytest.mark.parametrize(
    'schedule',
    [
        [dict(COSINE[0], T_max=4)],
        [
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=5),
            dict(type='MultiStepLR', milestones=[3]),
        ],
        [dict(type='OneCycleLR', eta_max=0.2, total_steps=4, by_epoch=True, convert_to_iter_based=True)],
        [dict(type='PolyLR', by_epoch=True, power=0.5)],
        None,
    ],
    ids=['longer', 'other kinds', 'one cycle', 'by epoch', 'none'],
)
@pytest.mark.parametrize('optimizer', [SGD, dict(SGD, lr=0.02)], ids=['same lr', 'other lr'])
def test_a_longer_run_has_the_schedule_of_its_config(train, half, schedule, optimizer):
    whole, _ = train('whole', 4, schedule, optimizer)
    rest, said = train('rest', 4, schedule, optimizer, half)
    assert rest == whole[4:]
    assert len(said) == 1 and 'The run goes on as if it had had those of this config from its start' in said[0]
    one_cycle = schedule is not None and schedule[0]['type'] == 'OneCycleLR'  # has a start of its own
    assert 'another one' not in said[0] and ('lr is 0.02, was 0.1' in said[0]) == (
        optimizer is not SGD and not one_cycle
    )


def test_the_first_of_several_differing_settings_are_named(train, half):
    _, said = train('rest', 4, [dict(COSINE[0], T_max=4)], dict(SGD, weight_decay=0.05), half)
    assert said[0].startswith(
        'Resumed with other settings than those of the checkpoint: weight_decay is 0.05, was 0; CosineAnnealingLR has '
        'another T_max, end. The run goes on'
    )


def test_weight_decay_and_momentum_are_followed_without_touching_the_schedule(train, tmp_path):
    names = ('lr', 'weight_decay', 'momentum')
    schedule = [dict(COSINE[0], T_max=4)]
    whole, _ = train('whole', 4, schedule, names=names)
    optimizer = dict(SGD, weight_decay=0.05, momentum=0.5)
    rest, said = train('rest', 4, schedule, optimizer, tmp_path / 'whole' / 'epoch_2.pth', names)
    assert rest == [(lr, 0.05, 0.5) for lr, *_ in whole[4:]]
    assert 'momentum is 0.5, was 0.9; weight_decay is 0.05, was 0.' in said[0]


def test_an_unchanged_run_is_not_touched(train, tmp_path):
    whole, _ = train('whole', 4, [dict(COSINE[0], T_max=4)])
    for stop in (1, 3):
        rest, said = train(
            f'from_{stop}', 4, [dict(COSINE[0], T_max=4)], resume=tmp_path / 'whole' / f'epoch_{stop}.pth'
        )
        assert rest == whole[2 * stop :] and said == []


def test_another_batch_size_keeps_the_place_in_the_schedule(train, tmp_path):
    whole, _ = train('whole', 4, [dict(COSINE[0], T_max=4)], batch=1)
    train('half', 4, [dict(COSINE[0], T_max=4)])
    rest, _ = train('rest', 4, [dict(COSINE[0], T_max=4)], resume=tmp_path / 'half' / 'epoch_2.pth', batch=1)
    assert rest == whole[8:]


def test_an_iteration_based_run_too(train, tmp_path):
    def schedule(end):
        return [dict(type='CosineAnnealingLR', T_max=end, by_epoch=False)]

    whole, _ = train('whole', 4, schedule(8), by_epoch=False)
    train('half', 2, schedule(4), by_epoch=False)
    rest, said = train('rest', 4, schedule(8), resume=tmp_path / 'half' / 'iter_4.pth', by_epoch=False)
    assert rest == whole[4:] and 'CosineAnnealingLR has another T_max, end' in said[0]


def test_another_optimizer_starts_anew_and_says_so(train, half):
    adam = dict(type='AdamW', lr=0.1)
    whole, _ = train('whole', 3, optimizer=adam)
    rest, said = train('rest', 3, optimizer=adam, resume=half)
    assert rest == whole[4:] and 'the optimizer is another one, and so starts anew' in said[0]


def test_adam_and_adamw_keep_the_same_and_decay_weights_in_other_ways(train, tmp_path):
    train('half', 2, optimizer=dict(type='Adam', lr=0.1))
    _, said = train('rest', 3, optimizer=dict(type='AdamW', lr=0.1), resume=tmp_path / 'half' / 'epoch_2.pth')
    assert 'decoupled_weight_decay is True, was False' in said[0] and 'weight_decay is 0.01, was 0' in said[0]


@pytest.mark.parametrize('more', [dict(momentum=0.9), dict(centered=True)], ids=lambda more: next(iter(more)))
def test_an_optimizer_that_keeps_more_than_the_checkpoint_has_starts_anew(train, tmp_path, more):
    train('half', 2, optimizer=dict(type='RMSprop', lr=0.1))
    _, said = train('rest', 3, optimizer=dict(type='RMSprop', lr=0.1, **more), resume=tmp_path / 'half' / 'epoch_2.pth')
    assert 'and so starts anew' in said[0]


def test_several_parameter_groups_keep_their_own_settings(train, tmp_path):
    groups = dict(paramwise_cfg=dict(bias_lr_mult=2.0, bias_decay_mult=0.0))
    schedule, optimizer = [dict(COSINE[0], T_max=4)], dict(SGD, weight_decay=0.1)
    whole, _ = train('whole', 4, schedule, optimizer, **groups)
    train('half', 2, COSINE, optimizer, **groups)
    rest, said = train('rest', 4, schedule, optimizer, tmp_path / 'half' / 'epoch_2.pth', **groups)
    assert rest == whole[4:] and len(said) == 1


def test_what_follows_a_metric_cannot_be_replayed_and_is_kept(train, tmp_path):
    def schedule(patience):
        return [dict(type='ReduceOnPlateauLR', monitor='loss', patience=patience)]

    whole, _ = train('whole', 4, schedule(1))
    rest, said = train('rest', 4, schedule(9), resume=tmp_path / 'whole' / 'epoch_2.pth')
    assert rest == whole[4:] and 'a schedule that follows a metric goes on as it was' in said[0]


def test_a_run_that_is_over_says_so(train, half):
    rest, said = train('rest', 2, resume=half)
    assert rest == [] and said == ['The checkpoint is of the end of this run: nothing is left to train.']


def test_several_optimizers_are_not_compared_and_that_is_said(caplog):
    one = OptimWrapper(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1))
    runner = SimpleNamespace(_resume=True, optim_wrapper=OptimWrapperDict(one=one), logger=logging.getLogger('some'))
    ResumeHook().after_load_checkpoint(runner, {})
    assert 'Resumed with the optimizers and schedules of the checkpoint' in caplog.text


def test_weights_alone_are_loaded_as_they_are(half):
    class Loading:
        _resume, optim_wrapper = False, OptimWrapper(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1))

    checkpoint = dict(optimizer={}, param_schedulers=[])
    hook = ResumeHook()
    hook.after_load_checkpoint(Loading(), checkpoint)
    assert checkpoint.keys() == {'optimizer', 'param_schedulers'}
