import copy
import pickle

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from torch import nn

from mmacs.quantization import calibrate, disabled, layer_table, quantize_model, quantizers
from mmacs.utils.errors import MmacsError


def tensors(output):
    """All tensors within nested tuples, lists, dicts."""
    if isinstance(output, torch.Tensor):
        return [output]
    if isinstance(output, dict):
        output = list(output.values())
    return [found for part in output for found in tensors(part)] if isinstance(output, (list, tuple)) else []


def images(num_classes, size=64):
    return demo_mm_inputs(1, [[3, size, size]], num_classes=num_classes)


@pytest.fixture
def retinanet(tiny_retinanet):
    model = MODELS.build(tiny_retinanet)
    data = model.data_preprocessor(images(3, 128), False)
    quantize_model(model)
    calibrate(model, [data], lambda batch: model(**batch, mode='predict'))
    return model, data


def test_full_precision_checkpoint_loads_strictly(tiny_retinanet):
    plain, quantized = MODELS.build(tiny_retinanet), quantize_model(MODELS.build(tiny_retinanet))
    quantized.load_state_dict(plain.state_dict(), strict=True)
    assert torch.equal(quantized.backbone.conv1.weight, plain.backbone.conv1.weight)


def test_shared_head_has_one_weight_a_step_per_level_and_the_sum_of_their_gradients(retinanet):
    model, _ = retinanet
    conv = model.bbox_head.cls_convs[0].conv
    assert conv.input_quantizer.step.shape == (5,)
    features = [torch.randn(1, 16, 2**i, 2**i) for i in range(4, -1, -1)]

    def gradient(levels):
        conv.weight.grad = None
        outputs = model.bbox_head(features)[0]
        sum(outputs[level].sum() for level in levels).backward()
        return conv.weight.grad

    each = [gradient([level]) for level in range(5)]
    torch.testing.assert_close(gradient(range(5)), sum(each), rtol=1e-4, atol=1e-5)
    assert all(part.abs().sum() > 0 for part in each)


def test_levels_use_their_own_steps_in_order(retinanet):
    model, _ = retinanet
    quantizer = model.bbox_head.cls_convs[0].conv.input_quantizer
    features = [torch.randn(1, 16, 2, 2) for _ in range(5)]
    with torch.no_grad():
        before = [out.clone() for out in model.eval().bbox_head(features)[0]]
        quantizer.step[3] *= 7
        after = model.bbox_head(features)[0]
    assert [torch.equal(a, b) for a, b in zip(before, after)] == [True, True, True, False, True]


def test_an_interrupted_forward_does_not_shift_the_levels(retinanet):
    model, _ = retinanet
    features = [torch.randn(1, 16, 2, 2) for _ in range(5)]
    model.eval()
    with torch.no_grad():
        expected = model.bbox_head(features)[0]
        with pytest.raises(AttributeError):
            model.bbox_head([*features[:2], None])
        actual = model.bbox_head(features)[0]
    assert all(torch.equal(a, b) for a, b in zip(actual, expected))


def test_weight_update_between_forwards_is_seen(retinanet):
    model, data = retinanet
    with torch.no_grad():
        before = model.eval()(**data, mode='tensor')[0][0].clone()
        model.bbox_head.retina_cls.weight += 1
        assert not torch.equal(before, model(**data, mode='tensor')[0][0])


def test_training_step_gives_every_weight_and_used_step_a_gradient(retinanet):
    model, data = retinanet
    losses = model.train()(**data, mode='loss')
    sum(loss for losses in losses.values() for loss in losses).backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []


def test_deepcopy_and_pickle_compute_the_same(retinanet):
    model, data = retinanet
    model.eval()
    with torch.no_grad():
        expected = tensors(model(**data, mode='tensor'))
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert all(torch.equal(a, b) for a, b in zip(tensors(twin(**data, mode='tensor')), expected))


def test_frozen_layers_have_frozen_steps(tiny_retinanet):
    tiny_retinanet.backbone.frozen_stages = 1
    model = quantize_model(MODELS.build(tiny_retinanet))
    assert not model.backbone.conv1.weight_quantizer.step.requires_grad
    assert model.backbone.layer2[0].conv1.weight_quantizer.step.requires_grad


def test_disabled_restores_also_after_an_exception(retinanet):
    model, _ = retinanet
    with pytest.raises(RuntimeError), disabled(model):
        raise RuntimeError
    assert all(quantizer.enabled for _, quantizer in quantizers(model))


def test_twice_and_nothing_to_quantize_are_clear_errors():
    model = quantize_model(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(4, 2)))
    with pytest.raises(MmacsError, match='quantized already'):
        quantize_model(model)
    with pytest.raises(MmacsError, match='leaves nothing'):
        quantize_model(nn.Sequential(nn.ReLU()))


def test_depthwise_and_grouped_convolutions_match_a_written_out_layer():
    conv = nn.Conv2d(4, 8, 3, groups=4, dilation=2, padding=2)
    model = quantize_model(nn.Sequential(nn.Conv2d(3, 4, 1), conv, nn.Conv2d(8, 2, 1)), 'w3a3')
    x = torch.randn(2, 4, 9, 9)
    out = conv(x)
    expected = nn.functional.conv2d(
        conv.input_quantizer(x), conv.weight_quantizer(conv.weight), conv.bias, 1, 2, 2, groups=4
    )
    assert torch.equal(out, expected)
    assert conv.weight_quantizer(conv.weight)[0].unique().numel() <= 8
    assert model[1] is conv


def test_table_names_every_layer_and_what_stays_in_full_precision(retinanet):
    model, _ = retinanet
    table = layer_table(model)
    assert 'bbox_head.retina_cls' in table
    assert 'LSQ 8 bit signed per channel' in table
    assert 'per level' in table
    assert table.splitlines()[-1].startswith('in full precision: 20 BatchNorm2d')
