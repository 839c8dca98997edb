"""The command that compares: with processes that train, and with made-up ones."""

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmacs.cli.comparison import run as running
from mmacs.cli.comparison import worker
from mmacs.cli.comparison.cells import Cell
from mmacs.cli.comparison.rows import COLUMNS, add_row, read_rows
from mmacs.models.quantized_model import full_precision_config
from mmacs.version import __version__
from tests.conftest import REPO
from tests.test_evaluation.test_comparison import row

CONFIG = REPO / 'configs' / 'cifar_resnet' / 'resnet20_embedded_w4a4_acs.py'
SPEC = '{num_train: 60, num_test: 20}'
GRID = f"""
config: {CONFIG}
checkpoint: fp.pth
methods: [rs2, mmacs]
fractions: [0.5]
recipes: [w4a4]
seeds: [0]
cfg_options:
  train_cfg.max_epochs: 2
  param_scheduler.T_max: 2
  train_dataloader.dataset.spec: {SPEC}
  val_dataloader.dataset.spec: {SPEC}
  train_dataloader.num_workers: 0
  val_dataloader.num_workers: 0
  train_dataloader.persistent_workers: false
  val_dataloader.persistent_workers: false
"""


@pytest.fixture
def grid(tmp_path):
    """Writes grids on the embedded classification set, into the folder in which commands run."""
    init_default_scope('mmpretrain')
    cfg = Config.fromfile(CONFIG)
    cfg.model.data_preprocessor = cfg.data_preprocessor
    model = MODELS.build(full_precision_config(cfg.model))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'fp.pth')

    def write(text='', **changes):
        lines = GRID.splitlines()
        for key, value in changes.items():
            lines = [f'{key}: {value}' if line.startswith(f'{key}:') else line for line in lines]
        (tmp_path / 'small.yml').write_text('\n'.join(lines) + '\n' + text)
        return 'small.yml'

    return write


@pytest.fixture
def made_up(monkeypatch):
    """Has processes write made-up results; returns the tasks that were begun. Methods named ``fails`` fail."""
    begun = []

    def run_side_by_side(tasks, places, start, ended):
        waiting = list(tasks)
        while ready := [(task, made) for task in waiting if (made := start(task)) is not None]:
            task, made = ready[0]
            waiting.remove(task)
            folder = Path(made.arguments[-1])
            given = json.loads((folder / 'task.json').read_text())
            begun.append((task.name, given['epochs']))
            if task.method == 'fails':
                made.log.write_text('a line\nerror: it cannot be\n')
                ended(task, 1)
                continue
            value = 60.0 + 10 * (task.method == 'mmacs') + task.seed
            result = dict(metrics={'accuracy/top1': value}, images=60, coresets='', settings=given['settings'])
            selects = task.method != 'rs2'  # whose seconds are of a busier hour
            result.update(training_seconds=10.0 if selects else 13.0, selection_seconds=15.0 * selects, threads=1)
            result.update(epochs=given['epochs'] or 2, version=__version__, machine='x', date='2026-01-01')
            (folder / 'result.json').write_text(json.dumps(result))
            ended(task, 0)
        return waiting

    monkeypatch.setattr(running, 'run_side_by_side', run_side_by_side)
    return begun


def test_two_runs_at_a_time_are_made_once_and_one_that_fails_does_not_end_the_grid(command, grid, tmp_path):
    broken = '{broken: {preset: static, cfg_options: {optim_wrapper.optimizer.type: Nothing}}}'
    status, message = command('compare.py', grid(methods=f'[{broken}, rs2]'), '--jobs', 2, '--threads', 1)
    assert status == 1
    assert message.startswith('error: 1 of 2 runs are missing: broken 0.5 w4a4 seed 0: ')
    assert 'Nothing' in message
    csv = tmp_path / 'docs' / 'results' / 'small.csv'
    (row,) = read_rows(csv)
    assert (row.stage, row.recipe, row.method, row.fraction, row.seed, row.epochs) == ('qat', 'w4a4', 'rs2', 0.5, 0, 2)
    assert (row.images, row.metric, row.threads, row.version) == (60, 'accuracy/top1', 1, __version__)
    assert row.training_seconds > 0
    assert (row.selection_seconds, row.coresets) == (0.0, '')
    folder = tmp_path / 'work_dirs' / 'compare' / 'small'
    assert '| qat | w4a4 | rs2 | 0.5 | 2 | 60 |' in (folder / 'table.md').read_text()
    assert (folder / 'comparison.png').stat().st_size > 0
    # done is done, also elsewhere
    add_row(csv, replace(row, machine='another'))
    before = csv.read_bytes()
    assert command('compare.py', grid(methods='[rs2]'), '--work-dir', 'new') == (0, '')
    assert csv.read_bytes() == before
    assert 'Seconds are of another, 1 thread' in (tmp_path / 'new' / 'table.md').read_text()


def test_full_precision_calibration_and_selection_are_lines_of_the_table(command, grid, tmp_path, monkeypatch):
    def in_this_process(tasks, places, start, ended):
        for task in tasks:
            if task.method != 'rs2':
                monkeypatch.setattr('sys.argv', ['worker', start(task).arguments[-1]])
                worker.main()
                ended(task, 0)
        return []

    monkeypatch.setattr(running, 'run_side_by_side', in_this_process)
    path = grid('stages: [fp, ptq, qat]\n', recipes='[min-max w2a2]')
    assert command('compare.py', path) == (0, '')
    *calibrated, selected = read_rows(tmp_path / 'docs' / 'results' / 'small.csv')
    assert [(row.stage, row.recipe, row.fraction, row.images) for row in calibrated] == [
        ('fp', '', None, 0),
        ('ptq', 'min-max w2a2', None, 0),
    ]
    assert (selected.method, selected.images, len(selected.coresets)) == ('mmacs', 60, 16)
    assert selected.training_seconds > 0
    assert selected.selection_seconds > 0
    assert {row.metric for row in (*calibrated, selected)} == {'accuracy/top1'}


def test_repeated_random_is_trained_for_the_seconds_of_a_method(command, grid, made_up, tmp_path):
    path = grid('equal_time: {rs2: mmacs}\n', seeds='[0, 1]')
    assert command('compare.py', path) == (0, '')
    # mmacs takes 25 s, of which 10 are training: selection makes it 2.5 times as long, and rs2 has 2 epochs
    assert ('rs2 as long as mmacs 0.5 w4a4 seed 1', 5) in made_up
    table = (tmp_path / 'work_dirs' / 'compare' / 'small' / 'table.md').read_text()
    assert '| rs2, as long as mmacs | 0.5 | 5 |' in table
    assert table.count('+10.00 ± 0.00 (n 2) |') == 2
    assert command('compare.py', path) == (0, '')
    assert len(made_up) == 6


def test_as_long_counts_the_images_of_both_and_what_selection_takes_of_both():
    cell = Cell('qat', 'w4a4', 0, 'rs2-trim', 0.1, 'mmacs')
    theirs = row('mmacs', images=150, training_seconds=30.0, selection_seconds=10.0)  # 200 images in its time
    ours = row('rs2-trim', images=100, training_seconds=8.0, selection_seconds=2.0)  # 125, in 10 epochs
    rows = {replace(cell, as_long_as=''): ours, replace(cell, as_long_as='', method='mmacs'): theirs}
    comparison = object.__new__(running.Comparison)
    comparison.grid = SimpleNamespace(methods={'rs2-trim': {}, 'mmacs': {}})
    assert comparison._epochs(cell, rows) == 16


def test_nothing_is_trained_as_long_as_a_run_of_another_machine(command, grid, made_up, tmp_path):
    slower = dict(methods='[rs2, {slower: {preset: mmacs, cfg_options: {train_dataloader.batch_size: 3}}}]')
    assert command('compare.py', grid('equal_time: {rs2: slower}\n', **slower)) == (0, '')
    # other steps than those of rs2: the seconds of both are compared, 25 to 13
    assert made_up[-1] == ('rs2 as long as slower 0.5 w4a4 seed 0', 4)
    csv = tmp_path / 'docs' / 'results' / 'small.csv'
    add_row(csv, replace(next(row for row in read_rows(csv) if row.method == 'rs2'), machine='another'))
    status, message = command('compare.py', grid('equal_time: {rs2: slower}\n', **slower))
    assert status == 1
    assert '1 of 3 runs are missing' in message
    assert 'the seconds of rs2 0.5 w4a4 seed 0 and slower 0.5 w4a4 seed 0 are of different machines' in message


def test_other_settings_are_other_runs_and_old_rows_stay(command, grid, made_up, tmp_path):
    assert command('compare.py', grid()) == (0, '')
    assert command('compare.py', grid(seeds='[0, 1]')) == (0, '')
    assert [name for name, _ in made_up] == [f'{m} 0.5 w4a4 seed {s}' for s in (0, 1) for m in ('rs2', 'mmacs')]
    assert command('compare.py', grid(fractions='[0.3]')) == (0, '')
    assert len(read_rows(tmp_path / 'docs' / 'results' / 'small.csv')) == 6
    table = (tmp_path / 'work_dirs' / 'compare' / 'small' / 'table.md').read_text()
    assert table.count('| qat |') == 2


def test_what_a_killed_command_left_is_taken_up(command, grid, made_up, tmp_path):
    assert command('compare.py', grid()) == (0, '')
    csv = tmp_path / 'docs' / 'results' / 'small.csv'
    before = read_rows(csv)
    csv.unlink()  # the command was killed before it wrote rows of results
    assert command('compare.py', grid()) == (0, '')
    assert read_rows(csv) == before
    assert len(made_up) == 2
    (path, _) = (tmp_path / 'work_dirs').rglob('result.json')
    whole = json.loads(path.read_text())
    csv.unlink()
    for damaged, said in (('{"settings": ', 'cannot read the result'), ({**whole, 'metrics': 3}, 'is damaged: delete')):
        path.write_text(damaged if isinstance(damaged, str) else json.dumps(damaged))
        status, message = command('compare.py', grid())
        assert status == 1
        assert said in message


def test_failures_are_told_in_the_end_by_their_own_sentence(command, grid, made_up, tmp_path):
    path = grid('equal_time: {rs2: fails}\n', methods='[rs2, {fails: {preset: static}}, mmacs]')
    status, message = command('compare.py', path)
    assert status == 1
    assert message == (
        'error: 2 of 4 runs are missing: fails 0.5 w4a4 seed 0: it cannot be; rs2 as long as fails 0.5 w4a4 seed 0: '
        'waits for fails 0.5 w4a4 seed 0. The command makes them if it is run again'
    )
    assert len(read_rows(tmp_path / 'docs' / 'results' / 'small.csv')) == 2


def test_a_report_needs_the_rows_alone(command, grid, made_up, tmp_path):
    path = grid('tuned_on: [{seed: 1}]\n', seeds='[0, 1]')
    assert command('compare.py', path) == (0, '')
    (tmp_path / 'fp.pth').unlink()
    table = tmp_path / 'work_dirs' / 'compare' / 'small' / 'table.md'
    before = table.read_text()
    assert 'mmacs (tuned on)' in before
    table.unlink()
    assert command('compare.py', path, '--report') == (0, '')
    assert table.read_text() == before
    status, message = command('compare.py', path, '--report', '--csv', 'none.csv')
    assert (status, 'none.csv has no rows of this grid' in message) == (1, True)


def test_mistakes_are_answered_before_anything_is_trained(command, grid, made_up, tmp_path):
    status, message = command('compare.py', grid(methods='[mmac]'))
    assert status == 1
    assert "unknown preset 'mmac': did you mean 'mmacs'" in message
    (tmp_path / 'fp.pth').unlink()
    status, message = command('compare.py', grid())
    assert status == 1
    assert 'cannot read the checkpoint fp.pth' in message
    status, message = command('compare.py', 'none.yml')
    assert message == 'error: cannot read the grid none.yml: No such file or directory'
    assert made_up == []
    assert len(COLUMNS) == len(set(COLUMNS)) == 22
    assert not os.path.exists(tmp_path / 'docs')
