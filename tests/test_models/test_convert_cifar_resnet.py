import importlib.util
import json
import pathlib
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmacs.models import CIFARResNet, convert_cifar_checkpoint
from mmacs.utils.errors import MmacsError

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / 'shared' / 'data'


def load_tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / 'tools' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class PublicResNet(nn.Module):
    """The layout of the public checkpoints: a flat network that ends in ``linear``."""

    def __init__(self, depth=20):
        super().__init__()
        for name, module in CIFARResNet(depth).named_children():
            self.add_module(name, module)
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = CIFARResNet.forward(self, x)[0]
        return self.linear(x.mean(dim=(2, 3)))


def make_public(prefix='', depth=20):
    torch.manual_seed(depth)
    model = PublicResNet(depth).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    state = {prefix + key: value for key, value in model.state_dict().items() if 'num_batches' not in key}
    return model, state


@pytest.mark.parametrize('prefix', ['', 'module.'])
@pytest.mark.parametrize('wrap', [dict, lambda state: {'state_dict': state, 'best_prec1': 91.7}])
def test_converted_classifier_computes_the_same(prefix, wrap):
    pretrain = pytest.importorskip('mmpretrain.registry')
    public, state = make_public(prefix)
    cfg = Config.fromfile(ROOT / 'configs' / 'cifar_resnet' / 'resnet20_cifar10.py')
    model = pretrain.MODELS.build(cfg.model).eval()
    model.load_state_dict(convert_cifar_checkpoint(wrap(state)))
    x = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.head(model.extract_feat(x)), public(x))


def test_number_of_classes_is_free():
    _, state = make_public()
    state.update({'linear.weight': torch.rand(100, 64), 'linear.bias': torch.rand(100)})
    assert convert_cifar_checkpoint(state)['head.fc.weight'].shape == (100, 64)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'linear.bias': None}, 'CIFARResNet-20: it misses linear.bias'),
        ({'layer3.2.conv1.weight': None, 'bn1.weight': None}, r'misses bn1.weight, layer3.2.conv1.weight'),
        ({'layer2.0.shortcut.0.weight': torch.rand(32, 16, 1, 1)}, 'has the unknown layer2.0.shortcut.0.weight'),
        ({'conv1.weight': torch.rand(64, 3, 3, 3)}, 'has the wrong shape in conv1.weight'),
        ({'conv1.weight': 1.0}, 'has the wrong shape in conv1.weight'),
        ({'bn1.bias': None, 'fc.bias': torch.rand(10)}, 'misses bn1.bias and has the unknown fc.bias'),
        ({'layer1.2.conv1.weight': None}, 'layer1 has 2 blocks'),
    ],
)
def test_refuses_another_network(changes, message):
    _, state = make_public()
    state = {key: value for key, value in {**state, **changes}.items() if value is not None}
    with pytest.raises(MmacsError, match=message) as caught:
        convert_cifar_checkpoint(state)
    assert '\n' not in str(caught.value)


def test_long_lists_are_cut():
    _, state = make_public()
    state = {key: value for key, value in state.items() if not key.startswith('layer3')}
    with pytest.raises(MmacsError, match=r'misses layer3.0.conv1.weight, \S+, \S+ and \d+ more$'):
        convert_cifar_checkpoint(state)


@pytest.mark.parametrize('checkpoint', [{}, [], torch.rand(2), {'state_dict': 3}, {1: 2}])
def test_refuses_what_holds_no_network(checkpoint):
    with pytest.raises(MmacsError):
        convert_cifar_checkpoint(checkpoint)


def test_tool_answers_in_one_sentence(command, tmp_path):
    torch.save({'state_dict': {'module.fc.weight': torch.rand(10, 64)}}, tmp_path / 'other.th')
    assert command('convert_cifar_resnet.py', tmp_path / 'other.th', tmp_path / 'out.pth') == (
        1,
        'error: the checkpoint is not one of a CIFARResNet: layer1 has 0 blocks with a conv1.weight',
    )
    assert [path.name for path in tmp_path.iterdir()] == ['other.th']


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_code_in_a_checkpoint_does_not_run(command, tmp_path):
    torch.save({'state_dict': Touch(tmp_path / 'ran')}, tmp_path / 'evil.th')
    status, printed = command('convert_cifar_resnet.py', tmp_path / 'evil.th', tmp_path / 'out.pth')
    assert status == 1 and 'something other than weights and plain values' in printed
    assert not (tmp_path / 'ran').exists() and not (tmp_path / 'out.pth').exists()


def test_unreadable_checkpoint(command, tmp_path):
    assert 'x.th is missing' in command('convert_cifar_resnet.py', tmp_path / 'x.th', tmp_path / 'out.pth')[1]
    (tmp_path / 'x.th').write_bytes(b'webp')
    assert 'x.th is no checkpoint' in command('convert_cifar_resnet.py', tmp_path / 'x.th', tmp_path / 'out.pth')[1]


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason='needs the shared data')
def test_public_weights_reach_their_accuracy(command, tmp_path):
    """Every tenth image: 91.4 %, no two best classes closer than 0.01. All 10,000 give 91.73 % but take a minute."""
    pytest.importorskip('mmpretrain')
    load_tool('prepare_cifar10').unpack(SHARED / 'cifar10' / 'test.zip', tmp_path / 'data' / 'test')
    weights = tmp_path / 'resnet20.pth'
    assert command('convert_cifar_resnet.py', SHARED / 'weights' / 'resnet20-12fca82f.th', weights) == (0, '')
    config = tmp_path / 'tenth.py'
    config.write_text(
        f"_base_ = '{ROOT / 'configs' / 'cifar_resnet' / 'resnet20_cifar10.py'}'\n"
        'test_dataloader = dict(dataset=dict(indices=list(range(0, 10000, 10))))\n'
    )
    done = command('test.py', config, weights, '--data-root', tmp_path / 'data', '--work-dir', tmp_path / 'work')
    assert done == (0, '')
    (result,) = (tmp_path / 'work').glob('*/*.json')
    assert json.loads(result.read_text())['accuracy/top1'] == pytest.approx(91.4)
