"""Packed models come back bit for bit, and a stranger's file does nothing but become a model, or one sentence."""

import json
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file
from torch import nn

import mmacs
from mmacs.cli.config_file import read_config
from mmacs.cli.publish import publish_packed
from mmacs.deploy import pack, packed
from mmacs.hooks.quantization_hook import STATE_KEY
from mmacs.models.quantized_model import build_quantized_model
from mmacs.quantization import Specification, calibrate, disabled, fold_batch_norm, freeze, quantize_model, quantizers
from mmacs.quantization.convert import full_precision_state
from mmacs.registry import MODELS
from mmacs.utils.errors import MmacsError
from mmacs.utils.nested import tensors_of
from tests.conftest import REPO
from tests.test_deploy.models import Small, with_random_norms


@ROOT.register_module()
class PackedSmall(Small):
    """A layer under a second name, one whose weight is another one's, and a norm per call."""

    def __init__(self, width=4, options=(), **others):
        super().__init__()
        self.again = self.shared
        self.tied = nn.Linear(6, 4)
        self.tied.weight = self.fc.weight
        self.plain = nn.Linear(6, 4)
        self.plain.weight = self.fc.weight

    def forward(self, x):
        y = super().forward(x)
        tail = torch.cat([y, y[..., :2]], -1) * 3
        return y + self.tied(tail) + self.plain(tail)


@ROOT.register_module()
class OpensFiles(nn.Module):
    """What a stranger may name: its constructor reads whatever it is told."""

    def __init__(self, name):
        super().__init__()
        self.text = Path(name).read_text()


def small(recipe, images, **settings):
    rules = [dict(name='plain', skip=True)]
    model = build_quantized_model('PackedSmall', dict(recipe, rules=rules), **settings)
    with_random_norms(model)
    calibrate(model, [images])
    return model.eval()


def of_config(name, size, **changes):
    cfg = Config.fromfile(REPO / 'configs' / name)
    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    cfg.merge_from_dict(changes)
    model, images = MODELS.build(cfg.model), torch.randn(2, 3, size, size)
    calibrate(model, [images], lambda batch: model(batch, mode='tensor'))
    return model.eval(), images


@torch.no_grad()
def assert_same(model, images, file, **mode):
    """Returns what the file gives back, once outputs and state are those of the model."""
    pack(model, file, force=True)
    loaded = mmacs.load(file)
    assert type(loaded) is type(model) and not any(module.training for module in loaded.modules())
    one, other = (tensors_of(each(images, **mode)) for each in (model, loaded))
    assert len(one) == len(other) > 0 and all(map(torch.equal, one, other))
    return loaded


QUANTIZERS = [
    dict(preset='w4a4'),
    dict(preset='w8a8', activation=dict(per_channel=True)),
    dict(preset='w2a2', weight=dict(per_channel=False)),
    dict(preset='w4a4', weight=dict(bits=5, power_of_two=True), additions=dict(bits=8)),
    dict(preset='w1a32', activation=dict(bits=3)),
    dict(preset='w4a4', weight=dict(type='LSQPlus'), activation=dict(type='LSQPlus')),
    dict(preset='w4a4', weight=dict(type='TQT'), activation=dict(type='PACT')),
    dict(preset='w4a4', weight=dict(type='DoReFa'), activation=dict(type='DoReFa')),
    dict(preset='w4a4', weight=dict(type='DoReFa', bits=1), activation=dict(type='EMAMinMax')),
    dict(preset='w4a4', weight=dict(type='OCTAV'), activation=dict(type='OCTAV')),
    dict(preset='w3a3', weight=dict(type='DQWeight'), activation=dict(type='DQActivation')),
    dict(preset='w3a3', weight=dict(type='SDQ', logarithmic=True, pruning=0.3), activation=dict(type='SDQ')),
    dict(preset='w2a2', weight=dict(type='SLB'), rules=[dict(name='*', weight=dict(bits=2))]),
    dict(preset='w4a4', weight=dict(type='CoarseFine'), activation=dict(type='MinMax')),
    dict(preset='w4a4', weight=dict(type='Percentile'), activation=dict(type='Percentile')),
]


@pytest.mark.parametrize('recipe', QUANTIZERS, ids=lambda recipe: re.sub(r'\W+', '-', str(recipe))[:60])
def test_all_quantizers_come_back_trained_frozen_and_folded(tmp_path, recipe):
    images = torch.randn(4, 3, 8, 8)
    model = small(recipe, images)
    loaded = assert_same(model, images, tmp_path / 'a.mmacs')
    given = {name: quantizer.bits for name, quantizer in quantizers(loaded)}
    assert given.items() <= {name: quantizer.bits for name, quantizer in quantizers(model)}.items()
    assert_same(loaded, images, tmp_path / 'b.mmacs')  # once more gives the same
    assert_same(freeze(model), images, tmp_path / 'a.mmacs')
    assert_same(fold_batch_norm(model), images, tmp_path / 'a.mmacs')


def test_a_model_in_training_is_packed_as_it_evaluates_and_left_as_it_is(tmp_path):
    images = torch.randn(4, 3, 8, 8)
    model = small(dict(preset='w4a4', weight=dict(type='OCTAV'), activation=dict(type='EMAMinMax')), images).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    pack(model, tmp_path / 'a.mmacs')
    assert model.training and all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(mmacs.load(tmp_path / 'a.mmacs')(images), model.eval()(images))


def test_bit_widths_that_training_changed(tmp_path):
    images = torch.randn(4, 3, 8, 8)
    model = small(dict(preset='w4a4'), images)
    for _, quantizer in quantizers(model):
        quantizer.change_bits(3)
    loaded = assert_same(model, images, tmp_path / 'a.mmacs')
    assert {quantizer.bits for _, quantizer in quantizers(loaded)} == {3}


@pytest.mark.parametrize(
    ('name', 'size', 'changes'),
    [
        ('cifar_resnet/resnet20_embedded_w4a4_acs.py', 16, {'model.recipe.preset': 'w4a4-int'}),
        ('retinanet/retinanet_r18_embedded_w4a4.py', 64, {}),
        ('yolox/yolox_nano_coco_mini_w8a8.py', 64, {}),
    ],
)
def test_models_of_the_libraries(tmp_path, name, size, changes):
    model, images = of_config(name, size, **changes)
    model.dataset_meta = dict(classes=('a', 'b\x1b'), palette=[(1, 2, 3)], other=object())
    loaded = assert_same(model, images, tmp_path / 'a.mmacs', mode='tensor')
    assert loaded.dataset_meta == dict(classes=('a', 'b\x1b'), palette=[(1, 2, 3)])
    assert loaded.recipe == model.recipe


def test_four_bits_take_less_than_a_seventh(tmp_path):
    model, _ = of_config('retinanet_r18_w4a4_acs.py', 32)
    size = sum(value.numel() * 4 for value in full_precision_state(model).values())
    assert pack(model, tmp_path / 'a.mmacs').stat().st_size < size / 7


def test_a_checkpoint_is_packed_by_its_config(tmp_path):
    model, images = of_config('cifar_resnet/resnet20_embedded_w4a4_acs.py', 16)
    checkpoint = dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=('a', 'b'))))
    torch.save(checkpoint, tmp_path / 'float.pth')
    torch.save({**checkpoint, STATE_KEY: Specification.of(model).state()}, tmp_path / 'a.pth')
    cfg = read_config(REPO / 'configs' / 'cifar_resnet' / 'resnet20_embedded_w4a4_acs.py')
    loaded = mmacs.load(publish_packed(tmp_path / 'a.pth', tmp_path / 'a.mmacs', cfg))
    assert loaded.dataset_meta == dict(classes=('a', 'b'))
    assert torch.equal(loaded(images, mode='tensor')[0], model(images, mode='tensor')[0])
    with pytest.raises(MmacsError, match='float.pth is in full precision'):
        publish_packed(tmp_path / 'float.pth', tmp_path / 'b.mmacs', cfg)
    cfg.model.recipe.preset = 'w2a2'
    with pytest.raises(MmacsError, match='trained with another recipe'):
        publish_packed(tmp_path / 'a.pth', tmp_path / 'b.mmacs', cfg)


# -------------------------------------------------------------------- what is refused
def test_what_cannot_be_packed(tmp_path):
    images, file = torch.randn(2, 3, 8, 8), tmp_path / 'a.mmacs'
    model = build_quantized_model('PackedSmall', 'w4a4')
    with pytest.raises(MmacsError, match='conv1.weight_quantizer was never calibrated'):
        pack(model, file)
    model = small(dict(preset='w4a4'), images)
    with disabled(model), pytest.raises(MmacsError, match='is disabled: pack the model outside'):
        pack(model, file)
    model.built_from.config['options'] = lambda: 0
    with pytest.raises(MmacsError, match='model.options is <function .*, which no file of a packed model can hold'):
        pack(model, file)
    with pytest.raises(MmacsError, match="build it by type='mmacs.QuantizedModel'"):
        pack(quantize_model(Small()), file)
    with pytest.raises(MmacsError, match='has no quantized weight to pack'):
        pack(build_quantized_model('PackedSmall', None), file)
    for dtype in (torch.float16, torch.float64):
        with pytest.raises(MmacsError, match=f'is {dtype}, and a packed model is in float32'):
            pack(small(dict(preset='w4a4'), images).to(dtype), file)
    with pytest.raises(MmacsError, match='a quantized model .* is needed, got None'):
        pack(None, file)
    model = small(dict(preset='w4a4'), images)
    model.conv1 = nn.Conv2d(3, 8, 5, padding=2)  # not what its config says
    with pytest.raises(MmacsError, match='does not fit the model that it describes'):
        pack(model, file)
    assert not list(tmp_path.iterdir())
    file.write_text('mine')
    with pytest.raises(MmacsError, match='exists: give another name, or force'):
        pack(small(dict(preset='w4a4'), images), file)
    assert file.read_text() == 'mine'


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A file of a small model."""
    torch.manual_seed(0)
    model = small(dict(preset='w4a4'), torch.randn(2, 3, 8, 8), width=8, options=(1, (2, 'three')))
    return pack(model, tmp_path_factory.mktemp('packed') / 'a.mmacs')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda raw: b'', 'it is empty'),
        (lambda raw: raw[:-20], 'of another kind, or is cut off'),
        (lambda raw: raw[:200], 'of another kind, or is cut off'),
        (lambda raw: b'PK\3\4' + raw, 'a zip archive, such as a checkpoint'),
        (lambda raw: b'\xff' * 8 + raw[8:], 'of another kind'),
        (lambda raw: b'model: 5\n' * 99, 'of another kind'),
        (lambda raw: raw[:-20] + bytes([raw[-20] ^ 1]) + raw[-19:], 'damaged: it does not hold what was written'),
        (lambda raw: raw.replace(b'\\"width\\":8', b'\\"width\\":9'), 'damaged: it does not hold what was written'),
        (lambda raw: raw.replace(b'"mmacs.format":"1"', b'"mmacs.format":"2"'), 'has the format 2, .*: update mmacs'),
        (lambda raw: raw.replace(b'"mmacs.format":"1"', b'"mmacs.format":"x"'), 'its format cannot be read'),
        (lambda raw: raw.replace(b'"mmacs.format"', b'"other.format"'), 'does not say what they are'),
    ],
)
def test_files_that_are_damaged_or_of_another_kind(whole, tmp_path, change, message):
    file = tmp_path / 'b.mmacs'
    file.write_bytes(change(whole.read_bytes()))
    with pytest.raises(MmacsError, match=message) as error:
        mmacs.load(file)
    assert str(file) in str(error.value)


def test_no_file(tmp_path):
    with pytest.raises(MmacsError, match='is a folder, not a packed model'):
        mmacs.load(tmp_path)
    with pytest.raises(MmacsError, match='cannot read .*none.mmacs: No such file'):
        mmacs.load(tmp_path / 'none.mmacs')


def forged(whole, file, **changes):
    """Writes a file with other metadata or tensors, and a digest that says it is whole."""
    raw = whole.read_bytes()
    tensors = load_tensors(raw)
    metadata = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], 'little')])['__metadata__']
    for key, change in changes.items():
        if key == 'tensors':
            change(tensors)
        else:
            value = json.loads(metadata[f'mmacs.{key}'])
            found = change(value) if callable(change) else change
            metadata[f'mmacs.{key}'] = json.dumps(value if found is None else found)
    del metadata['mmacs.digest']
    metadata['mmacs.digest'] = packed._digest(packed._Content(tensors, metadata))
    save_file(tensors, file, metadata=metadata)
    return file


def option(value):
    return lambda config: config.update(options=value)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        # types: of registries alone
        (dict(config=option(dict(type='os.system'))), "'os.system' as model.options.type, which no library has regist"),
        (dict(config=option([dict(type='subprocess.Popen')])), 'as model.options.0.type, which no library has'),
        (dict(config=option(dict(type='mmdet.apis.init_detector'))), 'which no library has registered'),
        (dict(config=option(dict(type=5))), 'has 5 as model.options.type'),
        (dict(config=dict(model='evil_package.Model')), "'evil_package.Model' as model.model, which no library"),
        (dict(config=dict(model=dict(type='builtins.eval'))), 'as model.model.type, which no library has registered'),
        (dict(config=dict(model=5)), 'has 5 as model.model'),
        (dict(config={}), 'cannot build the model of'),
        (dict(scope='evil_package'), "is a model of 'evil_package', which is not installed"),
        (dict(scope=5), 'its scope is 5'),
        # texts: words alone, since some are evaluated or opened
        (
            dict(config=option('__import__("os").system("true")')),
            'as model.options, where models have words and numbers',
        ),
        (dict(config=option(dict(nms='(lambda: 1)()'))), 'as model.options.nms, where models have words'),
        (dict(config=option('https://example.org/a.pth')), 'where models have words and numbers'),
        (dict(config=option('../secret')), 'where models have words and numbers'),
        (
            dict(config=dict(model='OpensFiles', name='pyproject.toml')),
            'it tried what it may not, open: pyproject.toml',
        ),
        # what does not fit
        (dict(config=[1]), r'its config is \[1\]'),
        (dict(recipe=dict(preset='w4a5')), "unknown preset 'w4a5'"),
        (dict(recipe=dict(preset='w2a2')), 'does not fit the model|levels'),
        (dict(recipe=dict(weight=dict(type='os.system'))), "unknown quantizer 'os.system'"),
        (dict(quantizers=dict(version=9, quantizers={})), 'update mmacs'),
        (dict(quantizers={}), 'does not fit the model that it describes'),
        (dict(weights=dict(nothing='grid')), 'does not fit the model that it describes'),
        (dict(weights=lambda weights: weights.update(bn1='grid')), 'bn1 is no quantized layer'),
        (dict(weights=lambda weights: weights.update(conv1='tabel')), 'does not fit the model that it describes'),
        (dict(folded=[['bn1']]), 'does not fit the model that it describes'),
        (dict(folded=['bn1']), "there is no 'bn1.num_batches_tracked'"),
        (dict(numbers=dict(bn1=dict(num_batches_tracked='x'))), 'does not fit the model that it describes'),
        (dict(numbers=dict(bn1=dict(num_batches_tracked=[[1, 2]]))), r'num_batches_tracked is torch.int64 of shape'),
        (dict(tensors=lambda tensors: tensors.pop('conv1.weight#codes')), 'does not fit the model that it describes'),
        (
            dict(tensors=lambda tensors: tensors.update({'conv1.weight#codes': torch.zeros(3, dtype=torch.uint8)})),
            'bytes',
        ),
        (dict(tensors=lambda tensors: tensors.pop('bn1.running_mean')), 'it has no bn1.running_mean'),
        (
            dict(tensors=lambda tensors: tensors.update({'bn1.weight': torch.ones(9)})),
            r'bn1.weight is torch.float32 of sh',
        ),
        (
            dict(tensors=lambda tensors: tensors.update({'bn1.weight': torch.ones(8).half()})),
            'bn1.weight is torch.float16',
        ),
        (dict(tensors=lambda tensors: tensors.update({'more.weight': torch.ones(8)})), 'the model has no more.weight'),
        (dict(dataset_meta=5), 'its dataset_meta is 5'),
    ],
)
def test_a_strangers_file_is_one_sentence(whole, tmp_path, monkeypatch, changes, message):
    monkeypatch.chdir(REPO)
    file = forged(whole, tmp_path / 'b.mmacs', **changes)
    with pytest.raises(MmacsError, match=message) as error:
        mmacs.load(file)
    assert str(file) in str(error.value) and '\n' not in str(error.value)


def test_nested_without_end(whole, tmp_path):
    deep = {}
    for _ in range(50):
        deep = {'x': deep}
    with pytest.raises(MmacsError, match='its config cannot be read .it is nested more than'):
        mmacs.load(forged(whole, tmp_path / 'b.mmacs', config=deep))


def test_weights_and_modules_from_elsewhere_are_not_followed(whole, tmp_path, capsys):
    def change(config):
        config['init_cfg'] = dict(type='Pretrained', checkpoint='/etc/passwd')
        config['options'] = dict(custom_imports=dict(imports=['this']))

    loaded = mmacs.load(forged(whole, tmp_path / 'b.mmacs', config=change))
    assert 'model.init_cfg, model.options.custom_imports is not followed' in capsys.readouterr().out
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(loaded(images), mmacs.load(whole)(images))
