import copy

import pytest
import torch
from mmcv.cnn import ConvModule
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from torch import nn

from mmacs.quantization import calibrate, disabled, quantize_model, quantizers
from mmacs.quantization.batch_norm import PerLevelBatchNorm2d
from mmacs.quantization.freeze import fold_batch_norm, freeze
from mmacs.utils.errors import MmacsError


def tensors(output):
    return [output] if isinstance(output, torch.Tensor) else [found for part in output for found in tensors(part)]


def randomize_batch_norm(model):
    """Statistics as after training, with scales of zero and below among them."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.track_running_stats:
            nn.init.normal_(norm.running_mean, std=0.1)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            if norm.affine:
                nn.init.normal_(norm.weight)
                nn.init.normal_(norm.bias, std=0.1)
                norm.weight.data[0] = 0


def quantized(model, run, batch, recipe='w4a4'):
    randomize_batch_norm(model)
    quantize_model(model, recipe)
    calibrate(model, [batch], run)
    return model.eval()


@pytest.fixture
def retinanet(tiny_retinanet):
    model = MODELS.build(tiny_retinanet)
    data = model.data_preprocessor(demo_mm_inputs(1, [[3, 128, 128]], num_classes=3), False)
    return quantized(model, lambda batch: model(**batch, mode='tensor'), data), data


@torch.no_grad()
def outputs(model, data):
    return tensors(model(**data, mode='tensor'))


def test_a_frozen_detector_computes_the_same_bits_from_few_valued_weights(retinanet):
    model, data = retinanet
    expected = outputs(model, data)
    assert freeze(model) is model
    assert all(torch.equal(a, b) for a, b in zip(outputs(model, data), expected))
    conv = model.backbone.layer2[0].conv1
    assert all(channel.unique().numel() <= 16 for channel in conv.weight)
    assert {quantizer.kind for _, quantizer in quantizers(model)} == {'activation'}
    # again, and after a round trip through its state
    weights = {key: value.clone() for key, value in freeze(model).state_dict().items()}
    model.load_state_dict(weights, strict=True)
    assert all(torch.equal(a, b) for a, b in zip(outputs(model, data), expected))


def test_a_frozen_model_can_not_be_trained(retinanet):
    model, data = retinanet
    freeze(model)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    losses = model.train()(**data, mode='loss')
    with pytest.raises(RuntimeError, match='does not require grad'):
        sum(loss for losses in losses.values() for loss in losses).backward()


@pytest.mark.parametrize('kind', ['LSQ', 'DQWeight'])
@pytest.mark.parametrize(
    'layer, shape',
    [
        (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), (2, 4, 5, 5)),
        (lambda: nn.MultiheadAttention(4, 2), (5, 2, 4)),
    ],
)
def test_layers_with_weights_of_another_layout_freeze_too(kind, layer, shape):
    model = nn.ModuleList([layer(), nn.Linear(1, 1)])
    quantize_model(model, dict(weight=dict(type=kind, bits=2)))
    x = torch.randn(shape)
    inputs = (x, x, x) if isinstance(model[0], nn.MultiheadAttention) else (x,)
    model[0](*inputs), model[1](torch.ones(1, 1))  # gives quantizers their steps
    expected = tensors(model.eval()[0](*inputs))
    assert not any(quantizer.kind == 'weight' for _, quantizer in quantizers(freeze(model)))
    assert all(torch.equal(a, b) for a, b in zip(tensors(model[0](*inputs)), expected))


def test_tied_weights_are_quantized_once_each():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[2].weight
    quantize_model(model, 'w2a2')
    x = torch.randn(3, 4)
    model(x)
    expected = model.eval()(x)
    assert torch.equal(freeze(model)(x), expected)


def test_folded_detector_agrees_and_keeps_its_activation_steps(retinanet):
    model, data = retinanet
    folded = copy.deepcopy(freeze(model))
    assert fold_batch_norm(folded) is folded
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    steps, kept = dict(quantizers(model)), dict(quantizers(folded))
    assert kept.keys() == steps.keys()
    assert all(torch.equal(kept[name].step, steps[name].step) for name in steps)
    # float32's rounding may carry an activation over to the next level: compare the linear parts
    with disabled(model), disabled(folded):
        pairs = list(zip(outputs(folded, data), outputs(model, data)))
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs)
    assert fold_batch_norm(folded).state_dict().keys() == folded.state_dict().keys()


def test_folded_weights_stay_on_as_many_levels_also_at_scales_of_zero_and_below():
    block = ConvModule(4, 6, 3, norm_cfg=dict(type='BN'), act_cfg=None)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), block, nn.Conv2d(6, 2, 1))
    x = torch.randn(2, 3, 8, 8)
    quantized(model, model, x, dict(preset='w2a2', activation=dict(bits=8)))
    assert (block.bn.weight < 0).any() and block.bn.weight[0] == 0
    expected = model(x)
    fold_batch_norm(freeze(model))
    assert all(channel.unique().numel() <= 4 for channel in block.conv.weight)
    assert block.conv.weight[0].abs().max() == 0
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=2 * model[2].input_quantizer.step.item())


@pytest.mark.parametrize(
    'layers',
    [
        lambda: [nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6)],
        lambda: [nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6, affine=False)],
    ],
)
def test_transposed_grouped_and_non_affine_layers_fold(layers):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), *layers())
    x = torch.randn(2, 3, 8, 8)
    quantized(model, model, x, dict(preset='w4a32', rules=[dict(name='0', activation=dict(bits=8))]))
    expected = model(x)
    fold_batch_norm(freeze(model))
    assert isinstance(model[2], nn.Identity)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def test_what_can_not_be_folded_is_left_alone():
    conv, shared = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
    model = nn.Sequential(
        nn.Sequential(conv, nn.BatchNorm2d(4)),  # two BatchNorms after one convolution, as in RTMDet's head
        nn.Sequential(conv, nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(4, 4, 1), shared),
        nn.Sequential(nn.Conv2d(4, 4, 1), shared),
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
        ConvModule(4, 4, 1, norm_cfg=dict(type='BN'), order=('norm', 'conv', 'act')),
        nn.Sequential(nn.Conv2d(4, 4, 1), PerLevelBatchNorm2d(4, num_levels=1)),
    )
    x = torch.randn(2, 4, 5, 5)
    quantized(model, model, x)
    freeze(model)
    expected = model(x)
    fold_batch_norm(model)
    assert torch.equal(model(x), expected)


def test_wrong_order_and_disabled_quantizers_are_clear_errors(retinanet):
    model, _ = retinanet
    with pytest.raises(MmacsError, match='quantized already: call freeze'):
        fold_batch_norm(model)
    with disabled(model), pytest.raises(MmacsError, match='is disabled'):
        freeze(model)
    with pytest.raises(MmacsError, match='is not quantized'):
        freeze(nn.Conv2d(1, 1, 1))
    with pytest.raises(MmacsError, match='eval mode'):
        fold_batch_norm(freeze(model).train())
