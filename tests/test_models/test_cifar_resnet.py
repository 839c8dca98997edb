from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmacs.models import CIFARResNet
from mmacs.models.cifar_resnet import BasicBlock, shortcut_a
from mmacs.registry import MODELS
from mmacs.utils.errors import MmacsError

CONFIGS = Path(__file__).parents[2] / 'configs' / 'cifar_resnet'


def build_classifier(name):
    pretrain = pytest.importorskip('mmpretrain.registry')
    cfg = Config.fromfile(CONFIGS / name)
    return pretrain.MODELS.build(cfg.model)


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


# Table 6 of the paper.
@pytest.mark.parametrize(('depth', 'millions'), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_size_is_the_papers(depth, millions):
    model = nn.Sequential(CIFARResNet(depth), nn.Linear(64, 10))
    assert count(model) / 1e6 == pytest.approx(millions, abs=0.03 if depth == 110 else 0.005)
    assert sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in model.modules()) == depth


@pytest.mark.parametrize(('name', 'parameters'), [('resnet20_cifar10.py', 269722), ('resnet56_cifar10.py', 853018)])
def test_config_builds_the_classifier(name, parameters):
    model = build_classifier(name)
    assert count(model) == parameters
    model.init_weights()
    loss = model(torch.rand(2, 3, 32, 32), [make_sample(0), make_sample(9)], mode='loss')['loss']
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def make_sample(label):
    from mmpretrain.structures import DataSample

    return DataSample().set_gt_label(label)


def test_shapes():
    features = CIFARResNet(20)(torch.rand(2, 3, 32, 32))
    assert isinstance(features, tuple)
    assert [tuple(feature.shape) for feature in features] == [(2, 64, 8, 8)]


def test_stages_halve_and_widen():
    model = CIFARResNet(20)
    shapes = []
    for stage in (model.layer1, model.layer2, model.layer3):
        assert len(stage) == 3
        stage.register_forward_hook(lambda module, args, out: shapes.append(tuple(out.shape[1:])))
    model(torch.rand(1, 3, 32, 32))
    assert shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


@pytest.mark.parametrize('size', [(4, 4), (5, 3)])
def test_shortcut_a_written_out(size):
    x = torch.rand(2, 4, *size)
    expected = torch.zeros(2, 8, (size[0] + 1) // 2, (size[1] + 1) // 2)
    for channel in range(4):
        for row in range(0, size[0], 2):
            for column in range(0, size[1], 2):
                expected[:, 2 + channel, row // 2, column // 2] = x[:, channel, row, column]
    assert torch.equal(shortcut_a(x, 8), expected)


@pytest.mark.parametrize(('out_channels', 'stride'), [(4, 1), (8, 2)])
def test_block_adds_its_shortcut_before_the_last_relu(out_channels, stride):
    block = BasicBlock(4, out_channels, stride).eval()
    nn.init.zeros_(block.bn2.weight)
    nn.init.constant_(block.bn2.bias, -0.5)
    x = torch.rand(1, 4, 6, 6)
    shortcut = x if stride == 1 else shortcut_a(x, out_channels)
    assert torch.equal(block(x), (shortcut - 0.5).clamp(min=0))


def test_init_weights_follows_he():
    torch.manual_seed(0)
    model = CIFARResNet(20)
    model.init_weights()
    weight = model.layer3[2].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)


@pytest.mark.parametrize('depth', [18, 1202, '20', None])
def test_unknown_depth(depth):
    with pytest.raises(MmacsError, match='has no depth .*: choose one of 20, 32, 44, 56, 110'):
        MODELS.build(dict(type='mmacs.CIFARResNet', depth=depth))


def test_data_sets_can_be_exchanged_by_one_line(tmp_path):
    pytest.importorskip('mmpretrain')
    text = (CONFIGS / 'resnet20_cifar10.py').read_text()
    line = "\n    '../_base_/datasets/cifar10_folders.py',"
    assert line in text
    text = text.replace(line, line.replace('folders', 'batches')).replace("'../_base_", f"'{CONFIGS.parent}/_base_")
    (tmp_path / 'exchanged.py').write_text(text)
    folders, batches = Config.fromfile(CONFIGS / 'resnet20_cifar10.py'), Config.fromfile(tmp_path / 'exchanged.py')
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        assert folders[loader].dataset.type == 'CustomDataset'
        assert batches[loader].dataset.type == 'CIFAR10'
        assert batches[loader].batch_size == folders[loader].batch_size == 128
    for cfg in (folders, batches):
        assert cfg.test_evaluator.type == 'Accuracy'
        assert cfg.data_preprocessor.mean == [123.675, 116.28, 103.53]
        assert cfg.data_preprocessor.to_rgb == (cfg is folders)
