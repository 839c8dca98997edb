import os
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import EpochBasedTrainLoop
from torch.utils.data import DataLoader

from mmacs.cli.runs import take_work_dir as take_for
from mmacs.hooks import work_dir as module
from mmacs.hooks.loaded_checkpoint import refuse_unsound_progress, refuse_unsound_steps
from mmacs.hooks.work_dir import leave_work_dir, take_work_dir
from mmacs.quantization import calibrate, quantize_model
from mmacs.utils.errors import MmacsError
from mmacs.utils.lock import LOCK, holds
from tests.test_utils.test_lock import another_process_locks


def run_in(folder):
    return SimpleNamespace(work_dir=str(folder))


def test_a_run_holds_its_work_dir_and_finds_nothing_half_written_in_it(tmp_path, monkeypatch):
    (tmp_path / 'coreset').mkdir()
    (tmp_path / 'notes').mkdir()
    whole = ['epoch_1.pth', 'coreset/round_000.npz', 'notes/.mine.12.npz']
    partial = ['.epoch_2.4711.pth', f'.teacher.{"a" * 32}.partial.pth', f'coreset/.round_001.{"b" * 32}.partial.npz']
    for name in (*whole, *partial):
        (tmp_path / name).touch()
    take_work_dir(run_in(tmp_path))
    assert holds(tmp_path / LOCK)
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob('*') if path.is_file())
    assert found == sorted([*whole, LOCK])
    (tmp_path / partial[0]).touch()
    take_work_dir(run_in(tmp_path))  # another hook of the same run, which may be writing
    assert (tmp_path / partial[0]).exists()
    leave_work_dir(run_in(tmp_path))
    leave_work_dir(run_in(tmp_path))
    assert not holds(tmp_path / LOCK)


def test_another_run_keeps_its_files_and_its_work_dir(tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'hold_work_dir', lambda folder: module_hold(folder, patience=0.0))
    (tmp_path / '.epoch_2.4711.pth').touch()
    cfg = Config(dict(work_dir=str(tmp_path), launcher='none'))
    with another_process_locks(tmp_path / LOCK):
        for take in (lambda: take_work_dir(run_in(tmp_path)), lambda: take_for(cfg)):
            with pytest.raises(MmacsError, match='is in use by another run'):
                take()
        monkeypatch.setenv('RANK', '1')
        cfg.launcher = 'pytorch'
        take_for(cfg)  # the main process has asked for all
        assert sorted(os.listdir(tmp_path)) == ['.epoch_2.4711.pth', LOCK]
    monkeypatch.setenv('RANK', '0')
    take_for(cfg)
    assert os.listdir(tmp_path) == [LOCK]
    leave_work_dir(run_in(tmp_path))


module_hold = module.hold_work_dir


@pytest.mark.parametrize(
    ('checkpoint', 'message'),
    [
        ({'state_dict': {}}, 'it has no epoch'),
        ({'meta': {'epoch': 1}}, 'it has no iter'),
        ({'meta': {'epoch': 1, 'iter': 10**9}}, 'its iter is 1000000000 after 1 epochs of 12 images'),
    ],
)
def test_a_run_goes_on_only_from_where_one_stood(checkpoint, message):
    loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    loop.dataloader = DataLoader(range(12), batch_size=2)
    runner = SimpleNamespace(_resume=True, _load_from='runs/epoch_1.pth', work_dir='none', _train_loop=loop)
    with pytest.raises(
        MmacsError, match=f'^cannot resume from runs/epoch_1.pth: {message}, so that it is no checkpoint of such a run'
    ):
        refuse_unsound_progress(runner, checkpoint)
    runner._resume = False
    refuse_unsound_progress(runner, checkpoint)
    runner._resume = True
    for meta in ({'epoch': 0, 'iter': 0}, {'epoch': 1, 'iter': 24}):
        refuse_unsound_progress(runner, {'meta': meta})


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_steps_that_are_no_numbers_are_refused(prefix):
    model = quantize_model(torch.nn.Sequential(torch.nn.Linear(4, 4)), 'w4a4')
    calibrate(model, [torch.randn(2, 4)])
    weights = {f'{prefix}{key}': value.clone() for key, value in model.state_dict().items()}
    refuse_unsound_steps(model, weights)
    refuse_unsound_steps(model, {})  # of a checkpoint in full precision
    weights[f'{prefix}0.weight_quantizer.step'][2] = float('nan')
    with pytest.raises(MmacsError, match='NaN or Inf in 0.weight_quantizer.step: its run diverged, or it is damaged'):
        refuse_unsound_steps(model, weights)
