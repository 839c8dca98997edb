"""Runs that are killed, started again and shared out between processes choose the same coresets, bit for bit."""

import gc
import itertools
import multiprocessing
import os
import pkgutil
import random
import runpy
import shutil
import signal
import socket
import sys
import time
from types import SimpleNamespace

import mmengine.config.config
import numpy as np
import pytest
import torch
import yapf.yapflib.yapf_api
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmacs.coreset.selection.selectors import digest
from mmacs.hooks import QuantizationHook
from mmacs.models.quantized_model import full_precision_config
from mmacs.registry import HOOKS
from mmacs.utils.checkpoints import latest_checkpoint
from tests.conftest import REPO, change_coreset, run_config, write_coco

from .test_run import CONFIG, load_checkpoint, rounds

KILLED = -signal.SIGKILL
RANDOM_KILLS = 4

# Importing the frameworks takes seconds: one process with one thread does that, and runs are forks of it.
PRELOADED = ['mmdet.datasets', 'mmdet.engine', 'mmdet.evaluation', 'mmdet.models', 'mmdet.visualization', 'pytest']
PRELOADED += ['mmacs.cli.runs', 'mmacs.coreset.scoring.scorers', 'mmacs.hooks', 'mmacs.models.quantized_model']

STEP = 'mmengine.optim.OptimWrapper.update_params'
SAVED = 'mmengine.hooks.checkpoint_hook.is_main_process'

# Functions before whose n-th call in a process it is killed. Each process goes on where the one before it was killed.
KILLS = [
    ('os.replace', 1),  # the teacher's weights lie in a temporary file
    ('mmacs.coreset.scoring.teacher_cache.CacheWriter.write', 3),  # the teacher cache is half written
    ('os.rename', 1),  # it is complete, but has no name yet
    ('mmacs.coreset.state.CoresetState.record', 1),  # the images of round 0 are scored
    ('numpy.lib.format.write_array', 3),  # the file of round 0 is half written
    (STEP, 2),  # in epoch 1
    ('pathlib.Path.write_bytes', 1),  # epoch_1.pth is half written
    (SAVED, 1),  # it is whole, but not noted
    (STEP, 2),  # in epoch 2
    ('pathlib.Path.write_bytes', 1),  # epoch_2.pth is half written, and is to replace epoch_1.pth
    (SAVED, 2),  # it is whole, but the note names epoch_1.pth
    ('mmacs.coreset.scoring.scorers.DenseDetectionScorer.score', 2),  # in round 1
    ('os.replace', 1),  # the file of round 1 has no name yet
    (STEP, 2),  # in epoch 3
    (STEP, 5),  # in epoch 4
    ('os.replace', 2),  # all is done but the summary
]


# -------------------------------------------------------------------- what other processes do
def prepare(log):
    """Set up a process that was forked off: output to a file, one thread, and none of what makes starts slow."""
    with open(log, 'a') as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    gc.freeze()
    for module in (mmengine.config.config, yapf.yapflib.yapf_api):
        module.FormatCode = lambda text, **kwargs: (text, True)
    Runner._log_env = lambda *args: None


def die_before(function, number):
    """Have this process killed before the n-th call of a function; writing bytes gets half done first."""
    owner, name = function.rsplit('.', 1)
    owner = pkgutil.resolve_name(owner)
    original, calls = getattr(owner, name), itertools.count(1)

    def mortal(*args, **kwargs):
        if next(calls) == number:
            if name == 'write_bytes':
                original(args[0], args[1][: len(args[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, mortal)


def train(log, arguments, kill, environment):
    """Do what ``python tools/train.py`` does."""
    prepare(log)
    os.environ.update(environment)
    if kill is not None:
        die_before(*kill)
    sys.argv = ['train.py', *map(str, arguments)]
    runpy.run_path(str(REPO / 'tools' / 'train.py'), run_name='__main__')


def hold_rounds(log, config, folder, rank, world_size):
    """Hold the first round of a run, with several numbers of workers and sizes of batches."""
    prepare(log)
    torch.distributed.init_process_group('gloo', f'file://{folder}/store', rank=rank, world_size=world_size)
    cfg = Config.fromfile(config)
    cfg.work_dir = str(folder)
    runner = Runner.from_cfg(cfg)
    runner.load_or_resume()
    QuantizationHook().calibrate(runner)
    for workers, batch_size in ((0, 2), (2, 2), (0, 3)):
        runner._work_dir = str(folder / f'{workers}_workers_{batch_size}_per_batch')
        runner.train_loop.dataloader.num_workers = workers
        hook = HOOKS.build({**cfg.default_hooks.coreset, 'scoring': dict(batch_size=batch_size)})
        hook.before_train(runner)
        hook.before_train_epoch(runner)
    torch.distributed.destroy_process_group()


# -------------------------------------------------------------------- what starts them
@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A folder with a config in which all that a run can remember matters, and what starts processes there."""
    folder = tmp_path_factory.mktemp('survival')
    init_default_scope('mmdet')
    write_coco(folder / 'coco', [(64, 96), (96, 64), (64, 64)] * 4, [1, 2, 3, 0, 5, 1, 2, 4, 0, 1, 2, 3])
    cfg = run_config(CONFIG, folder / 'coco', folder / 'run', load_from=str(folder / 'fp.pth'))
    torch.save(dict(state_dict=MODELS.build(full_precision_config(cfg.model)).state_dict()), folder / 'fp.pth')
    cfg.train_cfg.update(max_epochs=4, val_begin=9)
    cfg.default_hooks.checkpoint.max_keep_ckpts = 1
    weights = dict(reducible_error='beta', ds='1 - beta', evs=0.1)  # the default, and what can be harvested
    change_coreset(
        cfg,
        importance=dict(weights=weights),
        constraints=dict(random_share=0.4),
        schedule=dict(interval=2),
        cost=dict(rescore=0.5, harvest=True),
    )
    cfg.train_dataloader.dataset.pipeline.insert(-1, dict(type='PhotoMetricDistortion'))  # beside RandomFlip
    cfg.dump(folder / 'config.py')

    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(PRELOADED)
    processes = []

    def start(function, *arguments):
        processes.append(context.Process(target=function, args=(folder / 'log', *arguments)))
        processes[-1].start()
        return processes[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('OMP_NUM_THREADS', '1')
        start(prepare).join()
    yield SimpleNamespace(folder=folder, start=start)
    for process in processes:
        process.kill()
        process.join()


def launch(place, work_dir, kill=None, world_size=1, options=()):
    """Start the training command in one or several processes; returns them."""
    arguments = [place.folder / 'config.py', '--work-dir', work_dir, '--resume', 'auto', *options]
    if world_size == 1:
        return [place.start(train, arguments, kill, {})]
    with socket.create_server(('localhost', 0)) as free:
        port = free.getsockname()[1]
    shared = {'MASTER_ADDR': 'localhost', 'MASTER_PORT': str(port), 'WORLD_SIZE': str(world_size)}
    environments = [{**shared, 'RANK': str(rank), 'LOCAL_RANK': str(rank)} for rank in range(world_size)]
    return [place.start(train, [*arguments, '--launcher', 'pytorch'], kill, each) for each in environments]


def finish(place, processes, status=0):
    """Wait until processes have ended as expected; where the first is killed, the others go with it."""
    for process in processes:
        process.join(120)
        if status == KILLED:
            for other in processes[1:]:
                other.kill()
        assert process.exitcode == status, (place.folder / 'log').read_text()[-5000:]


def leaves(part, name=''):
    """Leaves of nested containers by name, arrays as bytes; without those that count seconds."""
    if isinstance(part, (dict, list, tuple)):
        pairs = part.items() if isinstance(part, dict) else enumerate(part)
        found = [leaves(value, f'{name}.{key}') for key, value in pairs if 'seconds' not in str(key)]
        return {key: leaf for part in found for key, leaf in part.items()}
    if isinstance(part, (torch.Tensor, np.ndarray)):
        return {name: (str(part.dtype), tuple(part.shape), np.asarray(part).tobytes())}
    return {name: part}


def assert_same(one, other):
    one, other = leaves(one), leaves(other)
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []


def outcome(work_dir):
    """What a finished run chose and learned."""
    checkpoint = load_checkpoint(work_dir / 'epoch_4.pth')
    kept = {key: checkpoint[key] for key in ('state_dict', 'optimizer', 'param_schedulers', 'mmacs_coreset')}
    return {**kept, 'rounds': rounds(work_dir), 'iterations': checkpoint['meta']['iter']}


# -------------------------------------------------------------------- tests
@pytest.fixture(scope='module')
def undisturbed(place):
    """Outcome of a run that nobody killed, and its seconds."""
    start = time.perf_counter()
    finish(place, launch(place, place.folder / 'undisturbed'))
    return outcome(place.folder / 'undisturbed'), time.perf_counter() - start


@pytest.mark.slow
def test_a_run_that_is_killed_wherever_it_hurts_ends_as_if_nothing_had_happened(place, undisturbed):
    work_dir, reached = place.folder / 'hurt', ''
    for kill in KILLS:
        finish(place, launch(place, work_dir, kill), KILLED)
        latest = latest_checkpoint(work_dir) or ''
        assert latest >= reached, f'{kill} cost a checkpoint'
        reached = latest
    finish(place, launch(place, work_dir))
    assert (work_dir / 'coreset' / 'summary.json').exists()
    assert [path.name for path in work_dir.rglob('*epoch_*.pth')] == ['epoch_4.pth']
    assert len(undisturbed[0]['rounds']) == 2
    assert_same(outcome(work_dir), undisturbed[0])


@pytest.mark.slow
@pytest.mark.thorough
def test_a_run_that_is_killed_at_random_moments_ends_as_if_nothing_had_happened(place, undisturbed):
    expected, seconds = undisturbed
    generator, kills = random.Random(0), 0
    for number in itertools.count():
        work_dir, running = place.folder / f'random{number}', True
        while running:
            (process,) = launch(place, work_dir)
            process.join(generator.uniform(0.1, 0.9) * seconds if kills < RANDOM_KILLS else 120)
            running = process.is_alive()
            process.kill()
            process.join()
            kills += running
        finish(place, [process])
        assert_same(outcome(work_dir), expected)
        if kills == RANDOM_KILLS:
            break


@pytest.mark.slow
def test_scores_and_coreset_are_those_of_any_number_of_processes_and_workers(place):
    found, caches = {}, {}
    for world_size in (1, 2, 4):
        folder = place.folder / f'{world_size}_processes'
        folder.mkdir()
        config = place.folder / 'config.py'
        finish(place, [place.start(hold_rounds, config, folder, i, world_size) for i in range(world_size)])
        for path in folder.glob('*_per_batch'):
            ((found[world_size, path.name]),) = rounds(path)
            (about,) = path.glob('teacher_cache/*/cache.json')
            caches[world_size, path.name] = about.read_text()  # with checksums
    assert len(found) == 9
    assert len({str(record['digest']) for record in found.values()}) == 1
    for size in (2, 3):
        same = [key for key in found if key[1].endswith(f'_{size}_per_batch')]
        for key in same:
            assert_same(found[key], found[same[0]])
            assert caches[key] == caches[same[0]]


@pytest.mark.slow
@pytest.mark.parametrize(('before', 'after'), [(2, 1), (1, 2)])
def test_a_run_goes_on_with_its_coreset_and_its_next_round_in_another_number_of_processes(place, before, after):
    work_dir, moved = (place.folder / f'{before}{name}' for name in ('_stay', f'_to_{after}'))
    finish(place, launch(place, work_dir, ('mmacs.coreset.engine.CoresetEngine.hold_round', 2), before), KILLED)
    shutil.copytree(work_dir, moved)
    indices = load_checkpoint(work_dir / 'epoch_2.pth')['mmacs_coreset']['indices']
    for folder, world_size in ((work_dir, before), (moved, after)):
        finish(place, launch(place, folder, (STEP, 1), world_size), KILLED)
        log = sorted(folder.glob('*/*.log'))[-1].read_text()
        assert f'Resumed the coreset of round 0, digest {digest(indices.numpy())}' in log
    assert len(rounds(moved)) == 2
    assert_same(rounds(moved), rounds(work_dir))


@pytest.mark.slow
def test_two_runs_at_once_share_one_teacher_cache(place):
    folders = [place.folder / f'sharing{i}' for i in range(2)]
    cache = place.folder / 'shared_cache'
    options = ['--cfg-options', f'default_hooks.coreset.cache_dir={cache}', 'train_cfg.max_epochs=1']
    runs = [launch(place, folder, options=options) for folder in folders]
    for processes in runs:
        finish(place, processes)
    assert len(list(cache.glob('*/cache.json'))) == 1
    assert len([path for path in (cache / 'training_data').iterdir() if '.contents' not in path.name]) == 1
    assert_same(*map(rounds, folders))
    assert not any((folder / 'teacher_cache').exists() for folder in folders)


def test_a_copied_run_goes_on_from_its_own_checkpoint(tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'epoch_1.pth').touch()
    (tmp_path / 'run' / 'last_checkpoint').write_text(str(tmp_path / 'run' / 'epoch_1.pth'))
    shutil.copytree(tmp_path / 'run', tmp_path / 'copy')
    assert latest_checkpoint(tmp_path / 'copy') == str(tmp_path / 'copy' / 'epoch_1.pth')
