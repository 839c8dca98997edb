"""What quantizers keep through whole runs: averaged models, accumulation, kills, two processes, compilers."""

import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner

from mmacs.quantization import quantizers
from tests.conftest import REPO, run_config, write_coco

from .test_run import CONFIG, KillAfter, load_checkpoint, rounds, train, weights

RECIPES = {
    'learned': dict(preset='w4a4'),
    'following': dict(preset='w4a4', weight=dict(type='OCTAV'), activation=dict(type='EMAMinMax')),
}

# Of a run in one or several processes: quantizers as training starts, gradients before and after they are brought
# together, and the model after training
WATCH = """
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmacs.hooks.run import unwrapped
from mmacs.quantization import quantizers


@HOOKS.register_module()
class Watch(Hook):
    priority = 'LOWEST'

    def __init__(self, folder):
        self.folder = folder
        self.found = {'local': {}}

    def before_train(self, runner):
        model = unwrapped(runner)
        self.found['start'] = self.ranges(model)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.register_hook(lambda grad, name=name: self.found['local'].setdefault(name, grad.clone()))
        step = runner.optim_wrapper.step

        def record(**kwargs):
            self.found.setdefault('mean', {name: p.grad.clone() for name, p in model.named_parameters()})
            step(**kwargs)

        runner.optim_wrapper.step = record

    def after_train(self, runner):
        model = unwrapped(runner)
        self.found['end'] = {**self.ranges(model), **dict(model.named_parameters())}
        torch.save(self.found, f'{self.folder}/rank{get_rank()}.pth')

    def ranges(self, model):
        ranges = [(name, found.state_dict()) for name, found in quantizers(model)]
        return {f'{name}.{key}': tensor.clone() for name, state in ranges for key, tensor in state.items()}
"""


@pytest.fixture
def config(tiny_retinanet, tiny_coco, tmp_path):
    """Makes configs of runs from a full-precision checkpoint: four iterations per epoch, scoring if asked."""
    start = tmp_path / 'fp.pth'
    torch.save(dict(state_dict=MODELS.build(tiny_retinanet).state_dict()), start)

    def make(name, recipe='learned', scored=False, **changes):
        changes = {'load_from': str(start), 'train_dataloader.sampler.fraction': 0.8, **changes}
        cfg = run_config(CONFIG, tiny_coco, tmp_path / name, **changes)
        cfg.model.recipe = RECIPES[recipe]
        if not scored:
            cfg.default_hooks.pop('coreset')
        return cfg

    return make


def averaged(runner):
    """The averaged model of a run."""
    return next(hook for hook in runner.hooks if isinstance(hook, EMAHook)).ema_model.module


def states(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


class Look(Hook):
    """Calls functions at points of a run, last of all hooks."""

    priority = 'LOWEST'

    def __init__(self, **points):
        for point, function in points.items():
            setattr(self, point, lambda runner, function=function, **kwargs: function(runner))


@pytest.mark.parametrize(('recipe', 'update_buffers'), [('learned', False), ('following', True)])
def test_a_killed_run_goes_on_with_averages_and_accumulation(config, recipe, update_buffers):
    whole = config('whole', recipe)
    whole.optim_wrapper.accumulative_counts = 2
    whole.custom_hooks = [dict(type='EMAHook', momentum=0.1, update_buffers=update_buffers)]
    killed = copy.deepcopy(whole)
    killed.work_dir = whole.work_dir.replace('whole', 'killed')
    uninterrupted = train(whole)
    assert uninterrupted.iter == 8

    runner = Runner.from_cfg(killed)
    runner.register_hook(KillAfter(epochs=1), priority='LOWEST')
    with pytest.raises(KeyboardInterrupt):
        runner.train()

    killed.resume, killed.load_from = True, None
    resumed, begun = Runner.from_cfg(killed), {}
    resumed.register_hook(
        Look(before_train=lambda runner: begun.update(model=weights(runner), mean=states(averaged(runner)))),
        priority='LOWEST',
    )
    resumed.train()
    saved = load_checkpoint(f'{killed.work_dir}/epoch_1.pth')
    # the checkpoint's main weights are the averaged ones, ready for use
    assert_equal(begun['mean'], saved['state_dict'])
    own = {key.removeprefix('module.'): x for key, x in saved['ema_state_dict'].items() if key != 'steps'}
    assert_equal(begun['model'], own)
    assert_equal(weights(resumed), weights(uninterrupted))
    assert_equal(states(averaged(resumed)), states(averaged(uninterrupted)))


@pytest.mark.parametrize('update_buffers', [False, True])
@pytest.mark.parametrize('recipe', RECIPES)
def test_an_averaged_model_has_steps_and_flags_from_its_first_update(config, recipe, update_buffers):
    cfg = config('run', recipe, **{'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1})
    cfg.custom_hooks = [dict(type='EMAHook', momentum=0.1, update_buffers=update_buffers)]
    runner, seen, evaluated = Runner.from_cfg(cfg), [], {}

    def look(runner):
        seen.append((weights(runner), states(averaged(runner))))

    def look_at_evaluation(runner):
        evaluated.update(weights(runner))
        assert all(quantizer.is_initialized() for _, quantizer in quantizers(runner.model))

    runner.register_hook(Look(after_train_iter=look, before_val_iter=look_at_evaluation), priority='LOWEST')
    runner.train()

    assert_equal(*seen[0])
    for (_, before), (source, mean) in zip(seen, seen[1:]):
        parameters = dict(runner.model.named_parameters())
        for name, expected in source.items():
            if expected.is_floating_point() and (update_buffers or name in parameters):
                expected = before[name].lerp(expected, 0.1)
                torch.testing.assert_close(mean[name], expected, msg=lambda text, name=name: f'{name}: {text}')
            elif not update_buffers or not name.endswith('num_batches_tracked'):
                assert torch.equal(mean[name], expected), name
    assert any(name.endswith('initialized') for name in source)
    assert_equal(evaluated, seen[-1][1])  # evaluation is that of the averaged model
    assert_equal(weights(runner), seen[-1][0])  # and leaves the trained one


@pytest.mark.slow
def test_two_processes_choose_and_train_as_one_does(config, tmp_path):
    (tmp_path / 'watch.py').write_text(WATCH)
    following = {part: RECIPES['following'][part] for part in ('weight', 'activation')}
    found = {}
    for count in (1, 2):
        folder = tmp_path / str(count)
        cfg = config(str(count), scored=True, **{'train_cfg.max_epochs': 1})
        cfg.model.recipe = dict(RECIPES['learned'], rules=[dict(name='bbox_head.*', **following)])
        cfg.train_dataloader.sampler.fraction = 0.5
        cfg.default_hooks.coreset.cost = dict(candidates=1.5, force=True)
        cfg.custom_imports.imports.append('watch')
        cfg.custom_hooks = [dict(type='Watch', folder=str(folder))]
        cfg.dump(tmp_path / 'run.py')
        command = [sys.executable, '-m', 'torch.distributed.run', f'--nproc-per-node={count}', '--standalone']
        command += [str(REPO / 'tools' / 'train.py'), str(tmp_path / 'run.py'), '--launcher', 'pytorch']
        environment = {**os.environ, 'PYTHONPATH': str(tmp_path)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        found[count] = [torch.load(folder / f'rank{rank}.pth', weights_only=True) for rank in range(count)]
    (coreset,), (same_coreset,) = (rounds(tmp_path / str(count)) for count in (1, 2))
    assert 0 < coreset['candidates'].mean() < 1
    for name in ('candidates', 'score_reducible_error', 'score_ds', 'indices'):
        np.testing.assert_array_equal(same_coreset[name], coreset[name])
    (alone,), (one, other) = found[1], found[2]
    assert_equal(one['start'], other['start'])
    assert_equal(one['start'], alone['start'])
    assert_equal(one['end'], other['end'])
    assert_equal(one['mean'], other['mean'])
    learned = {name.split('.')[0] for name in one['mean'] if name.endswith('quantizer.step')}
    kept = {name.split('.')[0] for name in one['start']}
    assert learned == {'backbone', 'neck'} and kept == {'backbone', 'neck', 'bbox_head'}
    for name, mean in one['mean'].items():
        torch.testing.assert_close(mean, (one['local'][name] + other['local'][name]) / 2, msg=name)
    assert any(not torch.equal(one['local'][name], other['local'][name]) for name in one['local'])


@pytest.mark.thorough
def test_the_compile_option_trains_the_same(config, tmp_path):
    """MMEngine's ``compile``; images of one size, for few compilations."""
    write_coco(tmp_path / 'same', [(64, 64)] * 4, [1, 2, 3, 1])

    def run(name, **changes):
        cfg = config(name, **{'train_cfg.max_epochs': 1, **changes})
        cfg.train_dataloader.dataset.data_root = str(tmp_path / 'same')
        cfg.train_dataloader.sampler.fraction = 1.0
        cfg.model.recipe = dict(preset='w4a4', rules=[dict(name='backbone.*', skip=True)])
        cfg.train_cfg.val_interval = cfg.train_cfg.val_begin = 9
        return weights(train(cfg))

    try:
        compiled = run('compiled', compile=dict(backend='aot_eager'))
    finally:
        torch._dynamo.reset()
    assert 'compile: torch compiles' in next((tmp_path / 'compiled').glob('*/*.log')).read_text()
    plain = run('plain')
    for name in plain:
        torch.testing.assert_close(compiled[name], plain[name], msg=name)
