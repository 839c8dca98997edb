import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmacs.hooks.batch_norm_hook import BatchNormReestimationHook
from mmacs.models.quantized_model import full_precision_config
from mmacs.utils.errors import MmacsError
from tests.conftest import run_config

from .test_run import load_checkpoint


class Watch(Hook):
    """Keeps the statistics that validation sees."""

    def before_val_iter(self, runner, **kwargs):
        self.validated = statistics(runner.model.state_dict())


def statistics(state):
    return {key: value.clone() for key, value in state.items() if key.endswith(('running_mean', 'running_var'))}


def differ(one, other):
    return [key for key in one if not torch.equal(one[key], other[key])]


@pytest.fixture
def train(tiny_coco, tmp_path):
    """Runs the shipped config without its coreset for two epochs of two iterations, with or without the hook."""

    def run(name, *hooks, by_iteration=False, **changes):
        cfg = run_config('retinanet_r18_w4a4_acs.py', tiny_coco, tmp_path / name, **changes)
        full_precision_config(cfg.model)['backbone'].update(norm_eval=False, frozen_stages=-1, init_cfg=None)
        cfg.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=True)
        cfg.train_dataloader.dataset.indices, cfg.val_dataloader.dataset.indices = 4, 1
        del cfg.default_hooks['coreset']
        if by_iteration:
            cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=3, val_interval=3)
            cfg.train_dataloader.sampler = dict(type='InfiniteSampler')
            cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=1)
        runner = Runner.from_cfg(cfg)
        watch = Watch()
        for hook in (*hooks, watch):
            runner.register_hook(hook)
        runner.train()
        saved = {path.stem: load_checkpoint(path) for path in (tmp_path / name).glob('*_?.pth')}
        return saved, watch.validated

    return run


def test_statistics_change_once_before_the_last_checkpoint_and_validation(train):
    plain, _ = train('plain')
    saved, validated = train('reestimated', BatchNormReestimationHook(num_images=4))
    first, last = saved['epoch_1'], saved['epoch_2']
    assert differ(first['state_dict'], plain['epoch_1']['state_dict']) == []
    assert len(differ(last['state_dict'], plain['epoch_2']['state_dict'])) == 40  # 20 BatchNorms' means and variances
    assert set(differ(last['state_dict'], plain['epoch_2']['state_dict'])) == set(statistics(last['state_dict']))
    assert differ(validated, last['state_dict']) == []


def test_averaged_weights_are_saved_and_validated_with_statistics_of_their_own(train):
    changes = {'train_cfg.max_epochs': 1}
    averaged = dict(type='EMAHook', momentum=0.01)
    plain, _ = train('plain', custom_hooks=[averaged], **changes)
    saved, validated = train('reestimated', BatchNormReestimationHook(num_images=4), custom_hooks=[averaged], **changes)
    saved, plain = saved['epoch_1']['state_dict'], plain['epoch_1']['state_dict']
    assert set(differ(saved, plain)) == set(statistics(saved))
    assert differ(validated, saved) == []


def test_a_run_that_counts_iterations_ends_with_it_once(train):
    plain, _ = train('plain', by_iteration=True)
    saved, validated = train('reestimated', BatchNormReestimationHook(num_images=4), by_iteration=True)
    assert differ(saved['iter_2']['state_dict'], plain['iter_2']['state_dict']) == []
    assert set(differ(saved['iter_3']['state_dict'], plain['iter_3']['state_dict'])) == set(validated)
    assert differ(validated, saved['iter_3']['state_dict']) == []


def test_images_are_spread_over_the_data_and_over_processes(monkeypatch):
    training = torch.utils.data.DataLoader(range(100), batch_size=4)
    batches = []
    for rank in range(2):
        monkeypatch.setattr('mmacs.hooks.batch_norm_hook.get_dist_info', lambda rank=rank: (rank, 2))
        batches.append([batch.tolist() for batch in BatchNormReestimationHook(num_images=20)._loader(training)])
    assert [len(batch) for rank in batches for batch in rank] == [4] * 4  # 10 each, without a smaller last batch
    shares = [sum(rank, []) for rank in batches]
    assert not set(shares[0]) & set(shares[1])
    assert (min(shares[0]), max(shares[1])) == (0, 99)
    monkeypatch.undo()
    few = BatchNormReestimationHook(num_images=3)._loader(training)
    assert [batch.tolist() for batch in few] == [[0, 49, 99]]


@pytest.mark.parametrize('num_images', [0, True, 1.5])
def test_a_wrong_number_of_images_is_a_clear_error(num_images):
    with pytest.raises(MmacsError, match='num_images must be a whole number, at least 1'):
        BatchNormReestimationHook(num_images=num_images)
