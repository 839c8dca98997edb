"""What other libraries fail at is told by the part of the config that they were building, with its key and value."""

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import TRANSFORMS
from mmengine.runner import Runner
from torch import nn

from mmacs import cli
from mmacs.cli.config_file import change_config, read_config
from mmacs.cli.runs import build_runner
from mmacs.quantization import quantize_model
from mmacs.utils.errors import MmacsError
from tests.conftest import run_config


def answer(cfg, options):
    """Returns the sentence for a config with options, of which a runner is built with all that training needs."""
    cfg.launcher = 'none'
    try:
        change_config(cfg, options)
        runner = build_runner(cfg, ['train_dataloader', 'val_dataloader'])
        runner.train_loop  # noqa: B018
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        runner.build_param_scheduler(runner.param_schedulers)
        runner.val_loop  # noqa: B018
        runner._init_model_weights()
        runner.load_or_resume()
    except Exception as error:
        return cli.explain(error)
    return 'nothing is wrong'


WEIGHTS = 'model.backbone.init_cfg'


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        # types that are not there, and those of another library
        ({'model.backbone.type': 'ResNett'}, "unknown model 'ResNett' in model.backbone: did you mean 'ResNet'?"),
        ({'model.backbone.type': None}, 'the type of a model in model.backbone must be a name or a class, got None'),
        ({'model.backbone.type': 'Zebra'}, 'is the module that registers it in custom_imports?'),
        (
            {'train_dataloader.dataset.pipeline.1.type': 'ResizeEdge'},
            "in train_dataloader.dataset.pipeline.1: it is one of mmpretrain, write type='mmpretrain.ResizeEdge'",
        ),
        ({'train_dataloader.dataset.pipeline.2.type': 'mmpretrain.ResizeEdg'}, "did you mean 'mmpretrain.ResizeEdge'?"),
        ({'train_dataloader.sampler.type': 'mmacs.CoresetSamplr'}, "did you mean 'mmacs.CoresetSampler'?"),
        ({'train_dataloader.sampler.type': 'CoresetSampler'}, "write type='mmacs.CoresetSampler'"),
        (
            {'default_hooks.coreset.type': 'mmacs.CoresetHok'},
            "in default_hooks.coreset: did you mean 'mmacs.CoresetHook'?",
        ),
        ({'train_cfg.type': 'EpochBasedTrainLop'}, "unknown loop 'EpochBasedTrainLop' in train_cfg"),
        (
            {'val_evaluator.type': 'CocoMetricc'},
            "unknown metric 'CocoMetricc' in val_evaluator: did you mean 'CocoMetric'?",
        ),
        ({'param_scheduler.0.type': 'LinearLRR'}, "unknown parameter scheduler 'LinearLRR' in param_scheduler"),
        ({'runner_type': 'Runnr'}, "unknown runner 'Runnr'"),
        # settings that a type does not have, or lacks
        ({'model.backbone.dept': 18}, "ResNet has no setting 'dept', did you mean 'depth'?"),
        ({'train_dataloader.dataset.ann_fil': 'x'}, "CocoDataset has no setting 'ann_fil', did you mean 'ann_file'?"),
        ({'train_dataloader.dataset.pipeline.2.scal': 3}, "Resize has no setting 'scal', did you mean 'scale'?"),
        ({'model.bbox_head': {'_delete_': True, 'type': 'RetinaHead'}}, 'lacks num_classes and in_channels'),
        # values that a type refuses
        ({'model.backbone.depth': 17}, 'cannot build model.backbone (ResNet): invalid depth 17 for resnet'),
        ({'model.data_preprocessor.mean': 3}, 'cannot build model.data_preprocessor (DetDataPreprocessor)'),
        ({'model.backbone': 'ResNet'}, "a model must be a dict with a type, got 'ResNet'"),
        ({'train_dataloader.batch_size': 0}, 'train_dataloader.batch_sampler'),
        ({'train_dataloader.num_workers': -1}, 'train_dataloader does not work: num_workers'),
        ({'train_dataloader.dataset.pipeline': 'x'}, 'train_dataloader.dataset.pipeline must be a list of transforms'),
        ({'train_dataloader.dataset.pipeline': []}, 'train_dataloader.dataset.pipeline must be a list of transforms'),
        ({'train_dataloader.dataset': None}, 'train_dataloader.dataset must be a dict with a type, got None'),
        ({'train_dataloader': 5}, 'train_dataloader must be a dict'),
        ({'train_cfg.max_epochs': 'ten'}, "train_cfg.max_epochs must be a whole number, at least 1, got 'ten'"),
        ({'train_cfg.max_epochs': 0}, 'train_cfg.max_epochs must be a whole number, at least 1, got 0'),
        ({'resume': 'yes'}, "resume must be True or False, got 'yes'"),
        ({'optim_wrapper.optimizer.lr': -1}, 'cannot build optim_wrapper'),
        (
            {'optim_wrapper.optimizer.type': 'SGDD'},
            "unknown optimizer 'SGDD' in optim_wrapper.optimizer: did you mean 'SGD'",
        ),
        ({'optim_wrapper.optimizer.type': 'SDG'}, "did you mean 'SGD'?"),
        ({'optim_wrapper': 5}, 'optim_wrapper=5 does not work'),
        ({'optim_wrapper.constructor': 'Zebra'}, "unknown optimizer constructor 'Zebra' in optim_wrapper"),
        ({'log_level': 'LOUD'}, "log_level='LOUD' does not work"),
        ({'randomness.seed': 'abc'}, "randomness={'seed': 'abc'} does not work"),
        ({'default_hooks': 5}, 'default_hooks=5 does not work'),
        (
            {'default_hooks.logger.priority': 'HIGHER'},
            "priority='HIGHER' of a hook must be a number from 0 to 100, or one",
        ),
        ({'val_evaluator': None}, 'this config makes no run: val_dataloader, val_cfg, and val_evaluator should be'),
        # weights
        (
            {f'{WEIGHTS}.type': 'Pretrained', f'{WEIGHTS}.checkpoint': 'nowhere.pth'},
            'nowhere.pth',
        ),
        (
            {f'{WEIGHTS}.type': 'Pretrained', f'{WEIGHTS}.checkpoint': 'torchvision://resnet999'},
            'cannot load the weights torchvision://resnet999 of model.backbone.init_cfg.checkpoint',
        ),
        (
            {'load_from': 'http://localhost:9/x.pth'},
            'cannot fetch the weights http://localhost:9/x.pth of load_from',
        ),
        ({'load_from': 5}, 'load_from must name a checkpoint, got 5'),
        # options that lead nowhere
        ({'trian_dataloader.batch_size': 3}, "the config has no 'trian_dataloader', did you mean 'train_dataloader'?"),
        ({'train_dataloader.dataset.pipeline.99.type': 'x'}, 'a list of 5 entries, counted from 0'),
        ({'train_dataloader.dataset.pipeline.x.type': 'x'}, "'x' is none of them"),
        ({'model.backbone.depth.foo': 3}, 'model.backbone.depth is 18, which has no keys'),
        ({'model.model.backbone.depth': 50}, 'write model.backbone and the like in place of model.model.backbone'),
    ],
)
def test_what_is_wrong_is_told_with_key_and_value(tiny_coco, tmp_path, options, words):
    cfg = run_config('retinanet_r18_w4a4_acs.py', tiny_coco, tmp_path / 'run')
    assert words in str(answer(cfg, options))


def test_a_transform_that_fails_is_named_with_its_image():
    flip = TRANSFORMS.build(dict(type='mmcv.RandomFlip', prob=1.0))
    with pytest.raises(KeyError) as raised:
        flip(dict(img_path='a/b.png'))
    assert cli.explain(raised.value).startswith(
        'the transform RandomFlip of the pipeline fails on a/b.png: there is no'
    )


@pytest.mark.parametrize('recipe', [None, dict(preset='w4a4')])
def test_a_layer_that_does_not_fit_its_images_is_named(recipe):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(5, 4, 1), nn.Conv2d(4, 4, 1))
    model = model if recipe is None else quantize_model(model, recipe)
    with pytest.raises(RuntimeError) as raised:
        model(torch.rand(2, 3, 8, 8))
    assert 'Conv2d) does not fit the images or layers before it: Given groups=1' in cli.explain(raised.value)
    assert cli.explain(raised.value).startswith('model.1 (')


def test_batches_that_the_preprocessor_cannot_take_are_told():
    with pytest.raises(KeyError) as raised:
        MODELS.build(dict(type='DetDataPreprocessor'))(dict(img=1))
    assert cli.explain(raised.value).endswith("there is no 'inputs'")


def test_images_that_do_not_fit_the_preprocessor_are_told():
    preprocessor = MODELS.build(dict(type='DetDataPreprocessor', mean=[0, 0, 0], std=[1, 1, 1]))
    with pytest.raises(AssertionError) as raised:
        preprocessor(dict(inputs=[torch.zeros(1, 8, 8)], data_samples=None))
    assert cli.explain(raised.value).startswith('model.data_preprocessor (DetDataPreprocessor) does not fit the images')


def test_a_mistake_of_mmacs_itself_is_no_mistake_of_the_user(tiny_coco, tmp_path, monkeypatch):
    monkeypatch.setattr('mmacs.coreset.sampler.get_dist_info', lambda: None)
    assert answer(run_config('retinanet_r18_w4a4_acs.py', tiny_coco, tmp_path / 'run'), {}) is None


def test_a_type_of_ones_own_is_told_with_its_line(tiny_coco, tmp_path, monkeypatch):
    (tmp_path / 'own_transform_that_fails.py').write_text('class Own:\n    def __init__(self):\n        assert 1 > 2\n')
    monkeypatch.syspath_prepend(tmp_path)
    from own_transform_that_fails import Own

    with pytest.raises(AssertionError) as raised:
        TRANSFORMS.build(dict(type=Own))
    assert "cannot build Own: AssertionError at 'assert 1 > 2' (" in cli.explain(raised.value)
    assert cli.explain(raised.value).endswith('own_transform_that_fails.py, line 3)')


@pytest.mark.parametrize(
    ('files', 'words'),
    [
        ({}, 'no such config'),
        ({'child.py': 'a = dict(b=\n'}, 'child.py'),
        ({'child.py': 'a = 1\nb = c\n'}, "name 'c' is not defined (line 2)"),
        ({'child.py': "_base_ = './base.py'\n"}, 'base.py, which'),
        ({'child.py': "_base_ = './bsae.py'\n", 'base.py': ''}, "base.py'?"),
        ({'child.py': "_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coc.py'\n"}, "retinanet_r18_fpn_1x_coco.py'?"),
        ({'child.py': "_base_ = 'mmdt::ssd/ssd300_coco.py'\n"}, "package of configs 'mmdt': did you mean 'mmdet'?"),
        ({'child.py': "open('no_such_file')\n"}, 'no_such_file'),
        ({'child.py': "_base_ = './child.py'\n"}, 'inherits itself'),
        ({'child.py': "_base_ = ['./base.py']\n", 'base.py': "_base_ = './child.py'\n"}, 'base.py from'),
        (
            {'child.py': "_base_ = './base.py'\na = dict(b=dict(c=1))\n", 'base.py': 'a = dict(b=None)\n'},
            'a.b is None, which has no keys, and this config has a dict for it: add _delete_=True to the dict',
        ),
        (
            {'child.py': "_base_ = ['./base.py', './more.py']\n", 'base.py': 'a = 1\n', 'more.py': 'a = 2\n'},
            "Duplicate key is not allowed among bases. Duplicate keys: {'a'}",
        ),
        ({'child.py': "_base_ = './base.py'\n", 'base.py': 'x = 1 / 0\n'}, 'base.py, which'),
        ({'child.py': "_base_ = 'mmacs::retinanet_r18_w4a4_acs.py'\n"}, 'mmacs::retinanet/retinanet_r18_w4a4_acs.py'),
        ({'child.py': "custom_imports = dict(imports=['no_such_module_at_all'])\n"}, 'or its folder on PYTHONPATH?'),
        ({'child.json': '{"a": 1'}, 'cannot read the config'),
        ({'child.pth': 'PK'}, 'Only py/yml/yaml/json'),
        ({'child.py/__init__.py': ''}, 'is a folder, not a config'),
    ],
)
def test_a_config_that_cannot_be_read(tmp_path, files, words):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    child = next((tmp_path / name.partition('/')[0] for name in files), tmp_path / 'none.py')
    with pytest.raises(MmacsError) as raised:
        read_config(child)
    assert words in str(raised.value) and '\n' not in str(raised.value)


@pytest.mark.parametrize('plugin', ['plugin_beside.py', 'plugins_beside/blocks.py'])
def test_the_folder_of_a_plugin_is_named(tmp_path, monkeypatch, plugin):
    (tmp_path / plugin).parent.mkdir(exist_ok=True)
    (tmp_path / plugin).write_text('import no_such_module_at_all\n')
    module = plugin.removesuffix('.py').replace('/', '.')
    (tmp_path / 'own.py').write_text(f"custom_imports = dict(imports=['{module}'], allow_failed_imports=False)\n")
    with pytest.raises(MmacsError, match=rf'_beside lies in {tmp_path}: .* PYTHONPATH={tmp_path} mmacs'):
        read_config(tmp_path / 'own.py')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MmacsError, match=r'PYTHONPATH=\. mmacs'):
        read_config('own.py')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MmacsError, match=r"No module named 'no_such_module_at_all'\): is it installed"):
        read_config('own.py')


def test_options_give_a_dict_in_the_place_of_none():
    cfg = Config(dict(model=dict(init_cfg=None)))
    change_config(cfg, {'model.init_cfg.type': 'Pretrained'})
    assert cfg.model.init_cfg == dict(type='Pretrained')


def test_a_missing_section_is_named():
    with pytest.raises(AttributeError) as raised:
        Config(dict(a=1)).optim_wrapper.type  # noqa: B018
    assert cli.explain(raised.value) == 'the config has no optim_wrapper, which is needed here'
    with pytest.raises(KeyError) as raised:
        Runner.from_cfg(Config(dict(work_dir='x')))
    assert cli.explain(raised.value) == 'the config has no model, which is needed here'
