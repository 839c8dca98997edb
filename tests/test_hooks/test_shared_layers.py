"""RTMDet's head, whose convolutions are registered once per pyramid level: its runs, checkpoints and sizes."""

import copy

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.runner import Runner

from mmacs.hooks.loaded_checkpoint import check_fit
from mmacs.quantization import quantize_model, quantizers
from mmacs.quantization.analysis.cost import model_bytes, quantized_weights
from mmacs.quantization.convert import full_precision_state
from mmacs.teacher.model import full_precision_weights
from mmacs.utils.errors import MmacsError
from tests.conftest import SHIPPED, run_config

from .test_run import load_checkpoint, train

SHARED = 'bbox_head.cls_convs.{}.0.conv'


@pytest.fixture
def rtmdet():
    """Config of MMDetection's RTMDet-tiny, narrowed, with 3 classes."""
    model = Config.fromfile(SHIPPED / 'rtmdet' / 'rtmdet_tiny_8xb32-300e_coco.py').model
    model.backbone.update(widen_factor=0.125, init_cfg=None, norm_cfg=dict(type='BN'))
    model.neck.update(in_channels=[32, 64, 128], out_channels=16, norm_cfg=dict(type='BN'))
    model.bbox_head.update(num_classes=3, in_channels=16, feat_channels=16, norm_cfg=dict(type='BN'))
    return model


@pytest.fixture
def weights(rtmdet):
    model = MODELS.build(rtmdet)
    model.init_weights()
    return model.state_dict()


def test_a_run_starts_from_a_full_precision_checkpoint_saves_and_resumes(tiny_coco, tmp_path, rtmdet, weights):
    torch.save(dict(state_dict=weights), tmp_path / 'fp.pth')
    cfg = run_config('retinanet_r18_w4a4_acs.py', tiny_coco, tmp_path / 'run', load_from=str(tmp_path / 'fp.pth'))
    cfg.model = dict(rtmdet, type='mmacs.QuantizedModel', model='RTMDet', recipe=dict(preset='w4a4'))
    del cfg.default_hooks.coreset
    cfg.train_cfg.max_epochs = 1
    cfg.train_dataloader.sampler.fraction = 0.2
    first = train(copy.deepcopy(cfg))
    checkpoint = load_checkpoint(tmp_path / 'run' / 'epoch_1.pth')
    state = checkpoint['state_dict']
    assert weights.keys() < state.keys()
    for level in (1, 2):
        for part in ('weight', 'weight_quantizer.step', 'input_quantizer.step'):
            assert torch.equal(state[f'{SHARED.format(level)}.{part}'], state[f'{SHARED.format(0)}.{part}'])
    found = checkpoint['mmacs_quantization']['quantizers']
    assert found[f'{SHARED.format(0)}.input_quantizer']['ranges'] == 3
    assert f'{SHARED.format(1)}.input_quantizer' not in found

    cfg.resume, cfg.load_from, cfg.train_cfg.max_epochs = True, None, 2
    resumed = Runner.from_cfg(copy.deepcopy(cfg))
    resumed.load_or_resume()
    assert all(torch.equal(value, first.model.state_dict()[key]) for key, value in resumed.model.state_dict().items())
    assert train(cfg).iter == 2 * first.iter


def test_what_a_checkpoint_misses_of_a_shared_layer_is_refused_and_what_quantizers_add_is_not(rtmdet, weights):
    model = quantize_model(MODELS.build(rtmdet))
    check_fit(model, weights)
    assert full_precision_state(model).keys() == full_precision_weights(model).keys() == weights.keys()
    del weights[f'{SHARED.format(2)}.weight']
    with pytest.raises(MmacsError, match='1 of its weights are missing .* bbox_head.cls_convs.2.0.conv.weight'):
        check_fit(model, weights)


def test_sizes_count_a_shared_layer_once(rtmdet):
    plain = MODELS.build(rtmdet)
    floats = [*plain.parameters(), *(buffer for name, buffer in plain.named_buffers() if 'running' in name)]
    model = quantize_model(copy.deepcopy(plain))
    layers = quantized_weights(model)
    assert [name for name in layers if 'cls_convs' in name] == [f'bbox_head.cls_convs.0.{i}.conv' for i in range(2)]
    quantized, full = model_bytes(model)
    assert full == 4 * sum(tensor.numel() for tensor in floats)
    steps = sum(quantizer.num_ranges for _, quantizer in quantizers(model))
    saved = sum(layer.weight.numel() * (32 - layer.weight_quantizer.bits) / 8 for layer in layers.values())
    assert quantized == full + 4 * steps - saved
