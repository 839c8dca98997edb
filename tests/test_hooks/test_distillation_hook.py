"""Whole runs with a teacher, beside a coreset and alone."""

import copy

import pytest
import torch
import torch.distributed
from mmdet.registry import MODELS
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner

from mmacs.distillation import Distiller
from mmacs.hooks import DistillationHook
from mmacs.hooks.distillation_hook import build_teacher
from mmacs.hooks.teacher import run_teacher
from mmacs.quantization import calibrate, quantize_model
from mmacs.teacher.model import make_teacher
from mmacs.utils.errors import MmacsError
from tests.conftest import run_config
from tests.test_distillation.test_distiller import images, num_hooks

from .test_run import CONFIG, KillAfter, load_checkpoint, train, weights

TERMS = ('loss_distill_cls', 'loss_distill_box', 'loss_correction')


@pytest.fixture
def trained(tiny_retinanet, tmp_path):
    """A full-precision checkpoint that fits the narrow model."""
    path = tmp_path / 'fp.pth'
    torch.save(dict(state_dict=MODELS.build(tiny_retinanet).state_dict()), path)
    return str(path)


def config(data, work_dir, trained, coreset=True, hook=(), **changes):
    cfg = run_config(CONFIG, data, work_dir, load_from=trained, **changes)
    cfg.custom_hooks = [dict(type='mmacs.DistillationHook', layers='backbone.layer*', **dict(hook))]
    if not coreset:
        cfg.default_hooks.pop('coreset')
    return cfg


def hook_of(runner, kind):
    return next(hook for hook in runner.hooks if isinstance(hook, kind))


def test_one_teacher_for_both_hooks_and_nowhere_else(tiny_coco, tmp_path, trained):
    cfg = config(tiny_coco, tmp_path / 'run', trained, **{'train_cfg.max_epochs': 1})
    cfg.custom_hooks.append(dict(type='EMAHook'))
    runner = Runner.from_cfg(cfg)
    keys, hooks = list(runner.model.state_dict()), num_hooks(runner.model)
    model, kind = runner.model, type(runner.model)
    runner.train()
    teacher = run_teacher(runner)[0]
    assert hook_of(runner, DistillationHook)._distiller.teacher is teacher
    start = torch.load(trained, weights_only=True)['state_dict']
    assert all(torch.equal(teacher.state_dict()[key], value) for key, value in start.items())
    assert not any(module.training for module in teacher.modules())

    assert runner.model is model and type(model) is kind
    assert list(model.state_dict()) == keys and num_hooks(model) == hooks
    assert not {id(module) for module in teacher.modules()} & {id(module) for module in model.modules()}
    optimized = {id(p) for group in runner.optim_wrapper.optimizer.param_groups for p in group['params']}
    assert not optimized & {id(p) for p in teacher.parameters()}
    checkpoint = load_checkpoint(tmp_path / 'run' / 'epoch_1.pth')
    assert list(checkpoint['state_dict']) == keys
    assert checkpoint['mmacs_distillation']['teacher'] == checkpoint['mmacs_coreset']['teacher']
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    assert all(f'{name}: ' in log for name in TERMS)
    for name in TERMS:
        assert 0 < runner.message_hub.get_scalar(f'train/{name}').current() < float('inf')


def test_a_killed_run_resumes_with_the_teacher_it_started_from(tiny_coco, tmp_path, trained):
    whole = config(tiny_coco, tmp_path / 'whole', trained)
    killed = copy.deepcopy(whole)
    killed.work_dir = str(tmp_path / 'killed')
    uninterrupted = train(whole)
    runner = Runner.from_cfg(killed)
    runner.register_hook(KillAfter(epochs=1), priority='LOWEST')
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    (tmp_path / 'fp.pth').unlink()

    killed.resume, killed.load_from = True, None
    resumed = train(killed)
    first, second = weights(uninterrupted), weights(resumed)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert hook_of(resumed, DistillationHook)._distiller.teacher is run_teacher(resumed)[0]


def test_a_run_without_a_coreset_resumes_with_its_own_teacher_alone(tiny_coco, tmp_path, trained):
    cfg = config(tiny_coco, tmp_path / 'run', trained, coreset=False, **{'train_cfg.max_epochs': 1})
    train(cfg)
    cfg.resume, cfg.load_from, cfg.train_cfg.max_epochs = True, None, 2
    path = tmp_path / 'run' / 'teacher.pth'
    start = torch.load(path, weights_only=True)['state_dict']
    other = {**start, 'backbone.conv1.weight': start['backbone.conv1.weight'] + 1}
    torch.save(dict(state_dict=other), path)
    with pytest.raises(MmacsError, match='does not hold the full-precision weights that this run started from'):
        train(copy.deepcopy(cfg))
    path.unlink()
    with pytest.raises(MmacsError, match='missing'):
        train(copy.deepcopy(cfg))
    torch.save(dict(state_dict=start), path)
    teacher = hook_of(train(cfg), DistillationHook)._distiller.teacher.state_dict()
    assert all(torch.equal(teacher[key], value) for key, value in start.items())


def test_a_checkpoint_without_a_teacher_cannot_be_resumed_with_one(tiny_coco, tmp_path, trained):
    cfg = config(tiny_coco, tmp_path / 'run', trained, **{'train_cfg.max_epochs': 1})
    hooks, cfg.custom_hooks = cfg.custom_hooks, []
    train(cfg)
    cfg.resume, cfg.load_from, cfg.train_cfg.max_epochs, cfg.custom_hooks = True, None, 2, hooks
    with pytest.raises(MmacsError, match='written by a run without DistillationHook'):
        train(cfg)


@pytest.fixture
def wider(tiny_retinanet, tmp_path):
    """Config and checkpoint of a teacher with a wider neck and the student's normalisation."""
    model = copy.deepcopy(tiny_retinanet)
    model.neck.out_channels = model.bbox_head.in_channels = 24
    path = tmp_path / 'wider.pth'
    torch.save(dict(state_dict=MODELS.build(model).state_dict()), path)
    return dict(config=model, checkpoint=str(path))


def test_another_model_can_be_the_teacher(tiny_coco, tmp_path, trained, wider):
    short = {'train_cfg.max_epochs': 1}
    cfg = config(tiny_coco, tmp_path / 'run', trained, hook=dict(teacher=wider), **short)
    runner = train(cfg)
    teacher = hook_of(runner, DistillationHook)._distiller.teacher
    assert teacher is not run_teacher(runner)[0]
    assert teacher.bbox_head.in_channels == 24
    assert not any(p.requires_grad for p in teacher.parameters())
    assert runner.message_hub.get_scalar('train/loss_distill_cls').current() > 0

    state = torch.load(wider['checkpoint'], weights_only=True)['state_dict']
    state['backbone.conv1.weight'] += 1
    torch.save(dict(state_dict=state), wider['checkpoint'])
    cfg.resume, cfg.load_from, cfg.train_cfg.max_epochs = True, None, 2
    with pytest.raises(MmacsError, match='wider.pth is not the teacher that this run had'):
        train(cfg)


def test_an_unfit_teacher_is_refused(tiny_retinanet, tmp_path, trained, wider):
    student = MODELS.build(tiny_retinanet)
    other = copy.deepcopy(wider['config'])
    other.data_preprocessor.mean = [0, 0, 0]
    for change, message in (
        (dict(checkpoint=trained), 'does not fit this RetinaNet'),
        (dict(checkpoint=str(tmp_path / 'none.pth')), 'cannot load the weights of the teacher .*none.pth'),
        (dict(config='none.py'), 'cannot read the config of the teacher .*none.py'),
        (dict(config=other), "the teacher's data preprocessor has another mean"),
    ):
        with pytest.raises(MmacsError, match=message):
            build_teacher(student, **{**wider, **change})


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(weight=-1), 'weight must be a number above 0, got -1'),
        (dict(form='kld'), "unknown form 'kld': did you mean 'kl'"),
        (dict(teacher=dict(config='a.py')), 'teacher must be a dict of config and checkpoint'),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(MmacsError, match=message):
        DistillationHook(**settings)


def test_terms_reach_the_losses_inside_the_distributed_wrapper(tiny_retinanet, tmp_path):
    model = quantize_model(MODELS.build(tiny_retinanet), 'w4a4')
    calibrate(model, [images()['inputs']])
    teacher = make_teacher(model)
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        wrapped = MMDistributedDataParallel(model)
        distiller = Distiller(model, teacher)
        distiller.attach()
        batch = images()
        batch['inputs'] = list(batch['inputs'])
        wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=1e-3)))
        logged = wrapped.train_step(batch, wrapper)
        assert logged['loss_distill_cls'] > 0 and logged['loss_distill_box'] > 0
        parts = [value for name, value in logged.items() if name != 'loss']
        torch.testing.assert_close(logged['loss'], sum(parts))
    finally:
        torch.distributed.destroy_process_group()
