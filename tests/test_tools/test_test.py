"""``tools/test.py --tta``, and the tools that publish checkpoints and count what a model costs."""

import copy
import re

import pytest
import torch
from mmdet.apis import DetInferencer
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.model import BaseTTAModel
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmacs.cli.augmentation import augment_testing
from mmacs.cli.complexity import build_model, complexity
from mmacs.cli.publish import publish
from mmacs.hooks.run import unwrapped
from mmacs.quantization import quantizers
from mmacs.utils.errors import MmacsError
from tests.conftest import run_config
from tests.test_hooks.test_run import load_checkpoint


@pytest.fixture
def cfg(tiny_coco, tmp_path):
    """A quantized config whose ``load_from`` is a quantized checkpoint, as a run saves it, that detects something."""
    cfg = run_config('retinanet_r18_w4a4_acs.py', tiny_coco, tmp_path / 'run')
    cfg.train_cfg.max_epochs = 1
    del cfg.default_hooks.coreset
    runner = Runner.from_cfg(copy.deepcopy(cfg))
    runner.train()
    cfg.load_from = str(tmp_path / 'run' / 'epoch_1.pth')
    checkpoint = load_checkpoint(cfg.load_from)
    checkpoint['state_dict']['bbox_head.retina_cls.weight'].normal_(std=0.3)
    checkpoint['state_dict']['bbox_head.retina_cls.bias'].zero_()
    torch.save(checkpoint, cfg.load_from)
    return cfg


def test_augmented_testing_merges_mirrored_images_of_the_quantized_model(cfg):
    plain = Runner.from_cfg(copy.deepcopy(cfg))
    without = plain.test()
    augmented = copy.deepcopy(cfg)
    augment_testing(augmented)
    assert augmented.tta_pipeline[-1].type == 'TestTimeAug'
    runner = Runner.from_cfg(augmented)
    assert isinstance(runner.model, BaseTTAModel)
    seen = []
    unwrapped(runner).neck.fpn_convs[0].conv.input_quantizer.register_forward_hook(lambda *args: seen.append(1))
    metrics = runner.test()
    assert metrics.keys() == without.keys()
    assert len(seen) == 2 * len(runner.test_dataloader.dataset)
    state = plain.model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in unwrapped(runner).state_dict().items())
    assert all(quantizer.is_initialized() for _, quantizer in quantizers(unwrapped(runner)))


def test_augmented_testing_of_a_full_precision_checkpoint_is_refused(cfg, tmp_path, tiny_retinanet):
    torch.save(dict(state_dict=MODELS.build(tiny_retinanet).state_dict()), tmp_path / 'fp.pth')
    cfg.load_from = str(tmp_path / 'fp.pth')
    augment_testing(cfg)
    with pytest.raises(MmacsError, match='full precision and has no step sizes'):
        Runner.from_cfg(cfg).test()


def test_what_a_config_says_of_augmentation_is_taken():
    cfg = Config(
        dict(
            default_scope='mmdet',
            model=dict(type='RetinaNet'),
            tta_model=dict(type='Own'),
            tta_pipeline=[dict(type='OwnTransform')],
            test_dataloader=dict(dataset=dict(type='RepeatDataset', dataset=dict(pipeline=[]))),
        )
    )
    augment_testing(cfg)
    assert cfg.model == dict(type='Own', module=dict(type='RetinaNet'))
    assert cfg.test_dataloader.dataset.dataset.pipeline == [dict(type='OwnTransform')]
    cfg.pop('tta_model')
    cfg.default_scope = 'mmpose'
    with pytest.raises(MmacsError, match="needs tta_model in the config: there is no default for default_scope='mmpo"):
        augment_testing(cfg)


def test_augmented_testing_by_command(cfg, command, tmp_path):
    cfg.dump(tmp_path / 'config.py')
    assert command('test.py', tmp_path / 'config.py', cfg.load_from, '--tta') == (0, '')


def test_a_published_checkpoint_keeps_what_inference_needs(cfg, tmp_path, tiny_coco, command):
    final = publish(cfg.load_from, tmp_path / 'model.pth')
    assert publish(cfg.load_from, tmp_path / 'model.pth') == final  # the same bytes have the same name
    found, before = load_checkpoint(final), load_checkpoint(cfg.load_from)
    assert set(found) == {'meta', 'state_dict', 'mmacs_quantization'}
    assert all(torch.equal(found['state_dict'][key], value) for key, value in before['state_dict'].items())
    assert found['mmacs_quantization'] == before['mmacs_quantization']
    assert final.stat().st_size < 0.7 * (tmp_path / 'run' / 'epoch_1.pth').stat().st_size
    picture = str(tiny_coco / 'images' / '001.png')
    scores = []
    for path in (cfg.load_from, final):  # the config is in the checkpoint
        inferencer = DetInferencer(weights=str(path), device='cpu', show_progress=False)
        scores.append(inferencer(picture, no_save_vis=True)['predictions'][0]['scores'])
    assert len(scores[0]) and scores[0] == scores[1]
    assert command('publish_model.py', cfg.load_from, tmp_path / 'again.pth') == (0, '')
    assert (tmp_path / final.name.replace('model', 'again')).read_bytes() == final.read_bytes()


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, 'is missing'),
        (b'no checkpoint', 'is no checkpoint'),
        ({'weight': torch.zeros(1)}, 'is no checkpoint: it has no state_dict'),
        ({'state_dict': {}, 'mmacs_quantization': 'w4a4'}, 'the specification of the quantization .* is damaged'),
    ],
)
def test_what_cannot_be_published_is_one_sentence(command, tmp_path, content, message):
    if isinstance(content, bytes):
        (tmp_path / 'in.pth').write_bytes(content)
    elif content is not None:
        torch.save(content, tmp_path / 'in.pth')
    status, printed = command('publish_model.py', tmp_path / 'in.pth', tmp_path / 'out.pth')
    assert status == 1
    assert re.search(message, printed)
    assert not list(tmp_path.glob('*out*'))


def test_complexity_needs_neither_data_nor_steps(config, command):
    cfg = Config.fromfile(config)
    init_default_scope('mmdet')
    model = build_model(cfg)
    found = complexity(model, (128, 128))
    double = complexity(model, (256, 128))
    assert double['macs'] == 2 * found['macs'] > 0
    assert found['bit_operations'] < found['bit_operations_full_precision'] / 20
    assert found['bytes'] < found['bytes_full_precision']
    assert not any(quantizer.is_initialized() for _, quantizer in quantizers(model))
    cfg.model.recipe = None
    assert found['params'] == sum(parameter.numel() for parameter in build_model(cfg).parameters())
    assert command('get_flops.py', config, '--shape', 64, 96) == (0, '')
    status, message = command('get_flops.py', config, '--shape', 0)
    assert (status, message) == (1, 'error: an image has at least one pixel, got the shape 0 x 0')
