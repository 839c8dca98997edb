"""What a run says first."""

import logging
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import mmacs.visualization.report_hooks  # noqa: F401
from mmacs.hooks.coreset_hook import CoresetHook
from mmacs.hooks.draws_hook import DrawsHook
from mmacs.hooks.quantization_hook import QuantizationHook
from mmacs.hooks.resume_hook import ResumeHook
from mmacs.hooks.run import report_at_end
from mmacs.hooks.summary_hook import SummaryHook, _rows, summarise
from mmacs.hooks.time_left_hook import add_to_time_left
from mmacs.quantization import quantize_model


class Model(BaseModel):
    """A linear layer in the place of a backbone."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(999, 10)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        raise AssertionError


@pytest.fixture
def runner(tmp_path):
    loader = dict(dataset=[0] * 30, sampler=dict(type='DefaultSampler', shuffle=False), batch_size=4, num_workers=0)
    cfg = Config(
        dict(
            model=Model(),
            work_dir=str(tmp_path),
            experiment_name=f'summary {tmp_path}',
            train_dataloader={**loader, 'sampler': dict(type='mmacs.CoresetSampler', fraction=0.4)},
            train_cfg=dict(by_epoch=True, max_epochs=3),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            val_dataloader=loader,
            val_cfg={},
            val_evaluator=dict(type='DumpResults', out_file_path='never.pkl'),
            load_from='weights.pth',
        )
    )
    one = Runner.from_cfg(cfg)
    summarise(one)
    summarise(one)
    return one


def summaries(runner):
    text = Path(runner.logger.log_file).read_text()
    return re.findall(r'INFO - (mmacs \S+ .*(?:\n  .*)*)', text)


def test_a_run_is_summed_up_once_with_what_it_is_about_to_do(runner):
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.optim_wrapper.param_groups[0].update(initial_lr=0.1, lr=0.001)  # as a warm-up has it
    runner._val_loop = runner.build_val_loop(runner._val_loop)
    for _ in range(2):
        runner.call_hook('before_run')
    (text,) = summaries(runner)
    title, *lines = text.splitlines()
    rows = dict(re.split(r'\s{2,}', line.strip(), maxsplit=1) for line in lines)
    assert title.endswith(' trains Model')
    assert rows['model'] == 'Linear; 0.01 M parameters; on cpu'
    assert rows['recipe'] == 'none: full precision'
    assert rows['starts from'] == 'weights.pth'
    assert rows['training data'] == 'list: 30 images; 0 workers'
    assert rows['coreset'] == '12 images in each epoch, 40 % of 30'
    assert rows['training'] == '3 epochs of 3 iterations; batches of 4; SGD, lr 0.1, OptimWrapper'
    assert rows['work dir'] == runner.work_dir and rows['whole log'].startswith(runner.logger.log_file)
    assert len(lines) <= 15


def test_a_recipe_is_named_with_its_changes():
    said = []
    for changes in (dict(), dict(activation=dict(type='mmacs.PACT'), weight=dict(bits=2))):
        model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
        model.recipe = dict(preset='w4a4', **changes)
        quantize_model(model, model.recipe)
        said.append(QuantizationHook().summary(SimpleNamespace(model=model))['recipe'])
    assert said[0].startswith('w4a4: 3 layers quantized, weights in ')
    assert said[1].startswith('w4a4 with activation (PACT), weight of its own: 3 layers quantized')


def test_what_is_evaluated_alone_has_no_training(runner):
    runner._val_loop = runner.build_val_loop(runner._val_loop)
    runner.call_hook('before_run')
    (text,) = summaries(runner)
    assert text.splitlines()[0].endswith(' evaluates Model')
    assert 'validation data' in text and 'training' not in text


def test_a_resumed_run_has_the_seed_that_it_goes_on_with(runner):
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner._resume = True
    runner.call_hook('before_run')
    assert summaries(runner) == []
    runner.call_hook('after_load_checkpoint', checkpoint=dict(meta=dict(seed=runner.seed + 1)))
    (text,) = summaries(runner)
    assert re.search(rf'  seed +{runner.seed + 1}\n', text) and 'weights.pth, which is resumed' in text


class Stream(IterableDataset):
    """Images that nobody has counted."""

    def __iter__(self):
        yield 0


class Loop(BaseLoop):
    """A loop of a user's own."""

    max_epochs, max_iters = 2, 10

    def __init__(self, runner, **attributes):
        self._runner = runner
        vars(self).update(attributes)

    def run(self):
        raise AssertionError


def test_loops_loaders_and_hooks_of_others_are_told_as_far_as_they_tell(runner):
    runner._train_loop = Loop(runner, dataloader=DataLoader(Stream(), batch_size=4))
    runner._val_loop = Loop(runner, dataloaders=[1, 2])
    runner._test_loop = Loop(runner, dataloader=[1, 2])
    writer = Hook()
    writer.summary = {'loss': 1.0}
    runner.register_hook(writer)
    runner.call_hook('before_run')
    (text,) = summaries(runner)
    rows = dict(re.split(r'\s{2,}', line.strip(), maxsplit=1) for line in text.splitlines()[1:])
    assert rows['training data'] == 'Stream; 0 workers' and rows['training'] == '2 epochs; batches of 4'
    assert 'validation data' not in rows and rows['test data'] == 'list'


class Counts(Hook):
    """A user's hook."""

    priority = 'LOWEST'
    calls = 0

    def before_run(self, runner):
        self.calls += 1


@pytest.mark.parametrize('priority', ['VERY_HIGH', 'LOWEST'])
def test_hooks_of_any_priority_sum_up_once_and_have_none_called_twice(runner, priority):
    runner._hooks = [hook for hook in runner.hooks if not isinstance(hook, SummaryHook)]  # without our commands
    counts = Counts()
    for hook in (counts, CoresetHook(preset='rs2'), QuantizationHook()):
        runner.register_hook(hook, priority=priority)
    runner._val_loop = runner.build_val_loop(runner._val_loop)
    runner.call_hook('before_run')
    assert len(summaries(runner)) == 1 and counts.calls == 1
    kinds = [type(hook) for hook in runner.hooks]
    assert [kinds.count(kind) for kind in (SummaryHook, ResumeHook, DrawsHook)] == [1, 1, 1]


def test_a_hook_that_is_added_in_a_call_is_called_from_the_next_on(runner):
    calls = []

    class Adds(Hook):
        priority = 'LOWEST'

        def before_train(self, runner):
            calls.append('adds')
            add_to_time_left(runner, lambda: 0.0)
            report_at_end(runner, 'CoresetReportHook')

    runner.register_hook(Adds())
    runner.call_hook('before_train')
    assert calls == ['adds']
    assert {'TimeLeftHook', 'CoresetReportHook'} < {type(hook).__name__ for hook in runner.hooks}


def test_a_logger_of_a_users_own_need_not_have_a_file(runner):
    runner.logger = logging.getLogger('own')
    assert 'whole log' not in _rows(runner)
