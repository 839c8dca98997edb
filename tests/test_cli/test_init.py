"""``mmacs init``: a config of a few lines that inherits a user's own, which stays as it is."""

import os

import pytest
import torch
from mmengine.config import Config

from mmacs import cli
from mmacs.models.quantized_model import is_quantized

PLUGIN = """
from mmdet.models import RetinaNet
from mmdet.registry import MODELS

@MODELS.register_module(force=True)
class {name}(RetinaNet):
    pass
"""
RETINANET = "_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'\n"
HEADLESS = """
from mmengine.model import BaseModel
from mmdet.registry import MODELS
from torch import nn

@MODELS.register_module(force=True)
class OwnRegressor(BaseModel):
    def __init__(self, data_preprocessor=None):
        super().__init__(data_preprocessor)
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 1)
    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.fc(self.conv(inputs).mean((2, 3)))
"""


@pytest.fixture
def init(monkeypatch, capsys, tmp_path):
    """Runs `mmacs init` in an empty folder; returns what it says, or the sentence that refuses."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def run(*arguments):
        try:
            cli.main(['init', *map(str, arguments)])
        except SystemExit as stop:
            assert stop.code == 1
            said = capsys.readouterr().err
            assert said.startswith('error: ') and said.count('\n') == 1
            return said
        return capsys.readouterr().out

    return run


def test_plugins_of_the_base_stay(init, tmp_path):
    (tmp_path / 'own_plugin.py').write_text(PLUGIN.format(name='OwnDetector'))
    imports = "custom_imports = dict(imports=['own_plugin'], allow_failed_imports=False)\n"
    (tmp_path / 'few.json').write_text('{"images": [{}, {}, {}]}')
    few = "train_dataloader = dict(dataset=dict(data_root='.', ann_file='few.json'))\n"
    schedule = "param_scheduler = dict(_delete_=True, type='CosineAnnealingLR', eta_min=0.002)\n"
    (tmp_path / 'own.py').write_text(f"{RETINANET}{imports}{few}{schedule}model = dict(type='OwnDetector')\n")
    (tmp_path / 'work_dirs' / 'own').mkdir(parents=True)
    torch.save({}, tmp_path / 'work_dirs' / 'own' / 'epoch_7.pth')
    said = init('own.py')
    cfg = Config.fromfile(tmp_path / 'own_w4a4_acs.py')
    assert cfg.custom_imports == dict(imports=['own_plugin', 'mmacs'], allow_failed_imports=False)
    assert is_quantized(cfg.model) and cfg.model.model == 'OwnDetector'
    assert cfg.load_from == 'work_dirs/own/epoch_7.pth'
    assert cfg.train_dataloader.sampler == dict(type='mmacs.CoresetSampler', fraction=0.3)
    assert cfg.default_hooks.coreset.scorer.type == 'mmacs.DenseDetectionScorer'
    assert cfg.optim_wrapper.constructor == 'mmacs.QuantizationOptimWrapperConstructor'
    assert cfg.optim_wrapper.optimizer.type == 'SGD' and cfg.optim_wrapper.optimizer.lr == 0.001
    assert len((tmp_path / 'own_w4a4_acs.py').read_text().splitlines()) <= 15
    for fact in (
        'your custom_imports stay (own_plugin), and mmacs is imported after them',
        'OwnDetector, a one-stage detector',
        'recipe w4a4',
        'own_plugin',
        'epoch_7.pth',
        'frozen_stages=1',
        'the learning rate is 0.001, a tenth of yours',
        'your CosineAnnealingLR has eta_min=0.002, more than that',
        "3 training images are few, and choosing may take much of the time: CoresetHook's cost='auto'",
        'loaded once',
    ):
        assert fact in said
    assert said.endswith('next: mmacs train own_w4a4_acs.py\n')


def test_a_file_that_is_there_is_kept_unless_told(init, tmp_path):
    (tmp_path / 'own.py').write_text(RETINANET)
    (tmp_path / 'sub').mkdir()
    (tmp_path / 'sub' / 'there.py').write_text('mine = 1\n')
    assert 'there.py exists: give another name, or force (--force)' in init('own.py', '--out', 'sub/there.py')
    assert (tmp_path / 'sub' / 'there.py').read_text() == 'mine = 1\n'
    said = init('own.py', '--out', 'sub/there.py', '--force', '--fraction', '1', '--recipe', 'w8a8')
    assert said.startswith('wrote') and 'images are few' not in said
    first, then = said.splitlines()[-2:]
    assert first.startswith('first: work_dirs/own/epoch_12.pth is missing: mmacs train own.py ends with it; or set')
    assert then == 'then: mmacs train sub/there.py'
    cfg = Config.fromfile(tmp_path / 'sub' / 'there.py')
    assert 'coreset' not in cfg.default_hooks and cfg.train_dataloader.sampler.type == 'DefaultSampler'
    assert cfg.model.recipe == dict(preset='w8a8')
    assert 'quantized already' in init('sub/there.py')


def test_a_classifier_of_a_package(init, tmp_path):
    said = init('mmpretrain::resnet/resnet18_8xb16_cifar10.py', '--out', 'deep/own.py')
    cfg = Config.fromfile(tmp_path / 'deep' / 'own.py')
    assert cfg.default_hooks.coreset.scorer.type == 'mmacs.ClassificationScorer'
    assert cfg.load_from.startswith('https://') and f'weights that are published for it, {cfg.load_from},' in said
    assert 'a classifier' in said and said.endswith('next: mmacs train deep/own.py\n')


def test_what_nothing_scores_gets_repeated_random(init, tmp_path):
    (tmp_path / 'own_regression.py').write_text(HEADLESS)
    (tmp_path / 'own.py').write_text(
        "default_scope = 'mmdet'\ncustom_imports = dict(imports='own_regression')\n"
        "model = dict(type='OwnRegressor')\noptim_wrapper = dict(type='OptimWrapper', constructor='OwnConstructor')\n"
        'train_dataloader = dict(batch_size=2)\ntrain_cfg = dict(by_epoch=False, max_iters=7)\n'
    )
    said = init('own.py')
    cfg = Config.fromfile(tmp_path / 'own_w4a4_acs.py')
    assert cfg.custom_imports.imports == ['own_regression', 'mmacs']
    assert cfg.default_hooks.coreset == dict(type='mmacs.CoresetHook', preset='rs2')
    assert cfg.optim_wrapper.constructor == 'OwnConstructor'
    assert cfg.train_dataloader.sampler == dict(type='mmacs.CoresetSampler', fraction=0.3)  # nothing to delete there
    assert 'your learning rate stays' in said
    assert 'drawn anew at random (rs2), since nothing here scores images for OwnRegressor' in said


def test_classes_in_the_place_of_names_and_a_base_on_another_drive(init, tmp_path, monkeypatch):
    def no_path(*_):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")  # as on Windows

    imports = 'from mmdet.models import RetinaNet\nfrom mmengine.dataset import DefaultSampler\n'
    settings = 'model = dict(type=RetinaNet)\ntrain_dataloader = dict(sampler=dict(type=DefaultSampler))\n'
    (tmp_path / 'own.py').write_text(f'{RETINANET}{imports}{settings}')
    monkeypatch.setattr(os.path, 'relpath', no_path)
    said = init('own.py', '--out', 'sub/new.py')
    monkeypatch.undo()
    assert '- RetinaNet, a one-stage detector' in said and 'takes the place of' not in said
    cfg = Config.fromfile(tmp_path / 'sub' / 'new.py')
    assert cfg.model.model == 'mmdet.models.detectors.retinanet.RetinaNet'
    assert cfg.train_dataloader.batch_size == 2  # inherited


@pytest.mark.parametrize(
    ('content', 'options', 'sentence'),
    [
        (None, [], 'no such config'),
        ('data_root = 1\n', [], 'own.py has no model with a type'),
        (
            "model = dict(type='RetinaNet')\ntrain_cfg = dict()\n",
            [],
            'no train_dataloader, no optim_wrapper; name',
        ),
        (f'{RETINANET}class Own:\n    pass\nmodel = dict(type=Own)\n', [], 'own.py defines the class Own itself'),
        (RETINANET, ['--fraction', '0'], '--fraction is a share of the images above 0 and at most 1, got 0'),
        (RETINANET, ['--recipe', 'w4'], "a recipe is bits such as 'w4a4'"),
        (RETINANET, ['--checkpoint', 'none.pth'], 'there is no checkpoint none.pth'),
        (RETINANET, ['--out', 'own.yaml'], '--out own.yaml must end in .py'),
        (f"{RETINANET}model = dict(bbox_head=dict(type='RetinaHad'))\n", [], "did you mean 'RetinaHead'"),
        ('from mmengine.config import read_base\nwith read_base():\n    pass\n', [], 'in the pure Python style'),
    ],
)
def test_what_cannot_be_inherited_is_refused_and_nothing_written(init, tmp_path, content, options, sentence):
    if content is not None:
        (tmp_path / 'own.py').write_text(content)
    assert sentence in init('own.py', *options)
    if content is not None:
        assert "no such config: onw.py, did you mean 'own.py'?" in init('onw.py')
    assert {path.name for path in tmp_path.iterdir()} <= {'own.py', '__pycache__'}
