import copy
import itertools
import pickle

import pytest
import torch
from mmcv.cnn.bricks.conv2d_adaptive_padding import Conv2dAdaptivePadding
from mmcv.cnn.bricks.conv_ws import ConvAWS2d, ConvWS2d
from mmcv.cnn.bricks.transformer import MultiheadAttention
from mmcv.cnn.bricks.wrappers import ConvTranspose2d
from mmcv.ops import DeformConv2d, DeformConv2dPack, ModulatedDeformConv2d, ModulatedDeformConv2dPack
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmpretrain.models.backbones import VisionTransformer
from torch import nn

from mmacs.quantization import calibrate, disabled, layer_table, quantize_model, quantizers
from mmacs.quantization.layers import QuantizedLayer, QuantizedLinear, QuantizedMultiheadAttention
from mmacs.quantization.layers import base as layers_base
from mmacs.quantization.layers.base import ReusedForward
from tests.conftest import SHIPPED


def normal(*shape):
    return lambda: torch.randn(*shape)


def sequences(*lengths):
    return [normal(length, 2, 8) for length in lengths]


# What makes a layer, and what makes its inputs
LAYERS = {
    'conv': (lambda: nn.Conv2d(4, 6, 3), [normal(2, 4, 6, 6)]),
    'linear': (lambda: nn.Linear(4, 6), [normal(2, 5, 4)]),
    'transposed': (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2), [normal(2, 4, 5, 5)]),
    'transposed grouped': (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), [normal(2, 4, 5, 5)]),
    'mmcv transposed': (lambda: ConvTranspose2d(4, 6, 3), [normal(2, 4, 5, 5)]),
    'same padding': (lambda: Conv2dAdaptivePadding(4, 6, 3, stride=2), [normal(2, 4, 7, 7)]),
    'standardized': (lambda: ConvWS2d(4, 6, 3, groups=2), [normal(2, 4, 5, 5)]),
    'adaptively standardized': (lambda: ConvAWS2d(4, 6, 3), [normal(2, 4, 5, 5)]),
    'deformable': (lambda: DeformConv2d(4, 6, 3), [normal(2, 4, 6, 6), normal(2, 18, 4, 4)]),
    'modulated': (
        lambda: ModulatedDeformConv2d(4, 6, 3),
        [normal(2, 4, 6, 6), normal(2, 18, 4, 4), lambda: torch.rand(2, 9, 4, 4)],
    ),
    'deformable with offsets': (lambda: DeformConv2dPack(4, 6, 3), [normal(2, 4, 6, 6)]),
    'modulated with offsets': (lambda: ModulatedDeformConv2dPack(4, 6, 3), [normal(2, 4, 6, 6)]),
    'attention': (lambda: nn.MultiheadAttention(8, 2), sequences(5, 3, 3)),
    # mmcv's default for this setting is one dict, which keeps what another model has written into it
    'mmcv attention': (
        lambda: MultiheadAttention(8, 2, dropout_layer=dict(type='Dropout', drop_prob=0.0)),
        sequences(5, 3, 3),
    ),
}


def first(output):
    return output[0] if isinstance(output, tuple) else output


class Wrapper(nn.Module):
    """A model of one layer, which takes a list."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, inputs):
        return first(self.layer(*inputs))


def quantized(layer, inputs, recipe='w4a4'):
    model = quantize_model(Wrapper(layer), recipe)
    unused = calibrate(model, [inputs])
    assert unused == []
    return model


def finely_quantized(layer, inputs):
    """At 16 bits, with room for inputs that are larger than those of calibration."""
    model = quantized(layer, inputs, dict(weight=dict(bits=16), activation=dict(bits=16)))
    for _, quantizer in quantizers(model):
        quantizer.step.data *= 4
    return model


@pytest.fixture(params=LAYERS)
def layer_and_inputs(request):
    build, inputs = LAYERS[request.param]
    layer = build()
    for parameter in layer.parameters():  # biases and offsets start at zero
        if parameter.abs().max() == 0:
            nn.init.normal_(parameter, std=0.3)
    return layer, [make() for make in inputs]


def test_is_quantized_and_when_disabled_bit_for_bit_the_original(layer_and_inputs):
    layer, inputs = layer_and_inputs
    expected = first(layer(*inputs))
    model = quantized(layer, inputs)
    got = model(inputs)
    assert got.shape == expected.shape
    assert not torch.allclose(got, expected, rtol=1e-3, atol=1e-3)
    with disabled(model):
        assert torch.equal(model(inputs), expected)


def test_with_many_bits_is_close_to_the_original(layer_and_inputs):
    layer, inputs = layer_and_inputs
    expected = first(layer(*inputs))
    torch.testing.assert_close(finely_quantized(layer, inputs)(inputs), expected, rtol=2e-3, atol=2e-3)


def test_each_output_channel_has_a_weight_step_of_its_own(layer_and_inputs):
    layer, inputs = layer_and_inputs
    model = quantized(layer, inputs, dict(preset='w2a32', rules=[dict(name='*', weight=dict(bits=2))]))
    for module in model.modules():
        if isinstance(module, QuantizedLayer):
            rows = module.weight_quantizer(module.weight_to_quantize())
            assert module.weight_quantizer.step.numel() == len(rows) > 1
            assert all(row.unique().numel() <= 4 for row in rows)
            assert module.restore_layout(rows).shape == module.original_weight().shape


def test_gradients_reach_every_parameter_step_and_input(layer_and_inputs):
    layer, inputs = layer_and_inputs
    model = quantized(layer, inputs, 'w8a8')
    inputs = [x.requires_grad_() for x in inputs]
    model(inputs).square().sum().backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in inputs)
    assert all(m.original_weight().grad.abs().sum() > 0 for m in model.modules() if isinstance(m, QuantizedLayer))


def test_copies_compute_the_same_and_full_precision_state_loads_strictly(layer_and_inputs):
    layer, inputs = layer_and_inputs
    plain = copy.deepcopy(Wrapper(layer)).state_dict()
    model = quantized(layer, inputs).eval()
    expected = model(inputs)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(inputs), expected)
    assert plain.keys() < model.state_dict().keys()
    model.load_state_dict(plain, strict=True)
    fresh = quantize_model(Wrapper(layer_twin(layer)))
    fresh.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(fresh.eval()(inputs), expected)


def test_a_frozen_weight_gives_the_same_output_without_its_quantizer(layer_and_inputs):
    layer, inputs = layer_and_inputs
    model = quantized(layer, inputs)
    expected = model(inputs)
    for module in model.modules():
        if isinstance(module, QuantizedLayer):
            module.freeze_weight(module.quantized_weight())
    assert torch.equal(model(inputs), expected)
    assert not any('weight_quantizer' in name for name, _ in quantizers(model))


def layer_twin(layer):
    """The full-precision layer behind a quantized one, with other weights."""
    plain = copy.deepcopy(layer)
    for module in plain.modules():
        if isinstance(module, QuantizedLayer):
            for kind in ('weight_quantizer', *module.inputs):
                delattr(module, kind)
            module.__class__ = type(module).original_type()
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    return plain


@pytest.mark.parametrize('name', ['conv', 'linear', 'transposed grouped', 'standardized', 'attention'])
@pytest.mark.parametrize('training', [True, False])
def test_bfloat16_autocast_is_near_float32(name, training):
    build, makers = LAYERS[name]
    inputs = [make() for make in makers]
    model = quantized(build(), inputs, 'w8a8').train(training)
    expected = model(inputs)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        got = model(inputs)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize('name', ['conv', 'linear', 'transposed', 'same padding', 'standardized', 'attention'])
def test_an_empty_batch_gives_an_empty_output(name):
    build, makers = LAYERS[name]
    inputs = [make() for make in makers]
    axis = 1 if name == 'attention' else 0
    model = quantized(build(), inputs)
    empty = model([x.narrow(axis, 0, 0) for x in inputs])
    assert empty.numel() == 0
    assert empty.shape[2:] == model(inputs).shape[2:]


# ---------------------------------------------------------------- convolutions
@pytest.mark.parametrize('groups', [1, 2, 4])
def test_a_loud_output_channel_of_a_transposed_convolution_leaves_the_others_alone(groups):
    conv, x = nn.ConvTranspose2d(4, 8, 3, groups=groups, bias=False), torch.randn(1, 4, 5, 5)
    loud = copy.deepcopy(conv)
    within, group = 1, groups - 1  # output channel 1 of the last group
    loud.weight.data.view(groups, 4 // groups, 8 // groups, 3, 3)[group, :, within] *= 100
    before, after = (quantized(layer, [x], 'w2a32')([x]) for layer in (conv, loud))
    changed = [not torch.equal(before[:, channel], after[:, channel]) for channel in range(8)]
    assert changed == [channel == group * (8 // groups) + within for channel in range(8)]


def test_a_transposed_convolution_takes_an_output_size():
    x = torch.randn(1, 4, 5, 5)
    conv = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1)
    quantized(conv, [x])
    assert conv(x, output_size=(10, 10)).shape == (1, 6, 10, 10)


def test_a_failed_forward_leaves_the_weight_in_place():
    x = torch.randn(1, 4, 6, 6)
    for layer in (nn.ConvTranspose2d(4, 6, 3), ModulatedDeformConv2dPack(4, 6, 3)):
        weight = layer.weight
        quantized(layer, [x])
        with pytest.raises((RuntimeError, ValueError)):
            layer(torch.randn(1, 5, 6, 6))
        assert layer.weight is weight
        assert dict(layer.named_parameters())['weight'] is weight


class ScaledConv2d(nn.Conv2d):
    """A layer of a user's, with a parameter of its own and one of a child's."""

    def __init__(self, *args):
        super().__init__(*args)
        self.gain = nn.Parameter(torch.tensor(2.0))
        self.mix = nn.Linear(5, 5)

    def forward(self, x):
        return super().forward(self.mix(x)) * self.gain


def test_all_that_a_registered_layer_of_a_users_has_learns(monkeypatch):
    monkeypatch.setattr(layers_base, 'QUANTIZED_LAYERS', {ScaledConv2d: type('Own', (ReusedForward, ScaledConv2d), {})})
    x = torch.randn(1, 2, 5, 5)
    model = quantize_model(nn.Sequential(ScaledConv2d(2, 3, 3)), 'w4a4')
    calibrate(model, [x])
    y = model(x)
    y.sum().backward()
    torch.testing.assert_close(model[0].gain.grad, y.detach().sum() / 2)
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model[0].parameters())


def test_offsets_are_made_from_the_input_before_the_sampled_input_is_quantized():
    x = torch.randn(1, 4, 6, 6)
    layer = ModulatedDeformConv2dPack(4, 6, 3)
    quantized(layer, [x], dict(preset='w4a4', rules=[dict(name='*conv_offset', skip=True)]))
    seen = []
    layer.conv_offset.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    layer(x)
    assert len(seen) == 1
    assert torch.equal(seen[0], x)


# ---------------------------------------------------------------- attention
def masks(kind, shape):
    forbidden = torch.rand(shape) < 0.3
    forbidden[..., 0] = False  # a row without any key is NaN in torch too
    return None if kind is None else forbidden if kind == 'bool' else torch.randn(shape).masked_fill(forbidden, -9.0)


@pytest.mark.parametrize(
    ('need_weights', 'average', 'batched', 'batch_first'),
    [(True, True, True, False), (True, False, True, True), (False, True, True, True), (False, True, True, False)]
    + [(True, False, False, False), (False, True, False, True)],
)
@pytest.mark.parametrize('bias', [True, False])
def test_attention_with_many_bits_is_torchs_whatever_the_masks(need_weights, average, batched, batch_first, bias):
    layer = nn.MultiheadAttention(8, 2, batch_first=batch_first, bias=bias).eval()
    shapes = [(3, n, 8) if batch_first else (n, 3, 8) for n in (5, 4, 4)] if batched else [(5, 8), (4, 8), (4, 8)]
    inputs = [torch.randn(shape) for shape in shapes]
    twin = finely_quantized(copy.deepcopy(layer), inputs).layer
    batch = (3,) if batched else ()
    for kind, padding, per_head in itertools.product((None, 'bool', 'float'), (None, 'bool', 'float'), (False, True)):
        heads = (3 * 2 if batched else 2,) if per_head else ()
        options = dict(
            attn_mask=masks(kind, (*heads, 5, 4)),
            key_padding_mask=masks(padding, (*batch, 4)),
            need_weights=need_weights,
            average_attn_weights=average,
        )
        got, got_weights = twin(*inputs, **options)
        expected, expected_weights = layer(*inputs, **options)
        torch.testing.assert_close(got, expected, rtol=2e-3, atol=2e-3)
        assert (got_weights is None) == (expected_weights is None)
        if need_weights:
            torch.testing.assert_close(got_weights, expected_weights, rtol=2e-3, atol=2e-3)


def test_causal_hint_masks_the_future_and_needs_its_mask():
    inputs = [torch.randn(4, 1, 8)] * 3
    layer = quantized(nn.MultiheadAttention(8, 2), inputs).layer
    causal = nn.Transformer.generate_square_subsequent_mask(4)
    for need_weights in (True, False):
        out, _ = layer(*inputs, attn_mask=causal, is_causal=True, need_weights=need_weights)
        changed = torch.cat([inputs[0][:3], torch.randn(1, 1, 8)])
        other, _ = layer(*[changed] * 3, attn_mask=causal, is_causal=True, need_weights=need_weights)
        assert [torch.equal(a, b) for a, b in zip(out, other)] == [True, True, True, False]
    with pytest.raises(RuntimeError, match='attn_mask'):
        layer(*inputs, is_causal=True)


@pytest.mark.parametrize('need_weights', [True, False])
def test_attention_drops_out_as_torch_does_and_only_in_training(need_weights):
    inputs = [torch.randn(5, 2, 8)] * 3
    plain = nn.MultiheadAttention(8, 2, dropout=0.5)
    twin = finely_quantized(copy.deepcopy(plain), inputs).layer
    torch.manual_seed(1)
    expected = plain(*inputs, need_weights=need_weights)[0]
    torch.manual_seed(1)
    torch.testing.assert_close(twin(*inputs, need_weights=need_weights)[0], expected, rtol=2e-3, atol=2e-3)
    twin.eval()
    assert torch.equal(twin(*inputs, need_weights=need_weights)[0], twin(*inputs, need_weights=need_weights)[0])


def test_query_key_and_value_have_quantizers_of_their_own():
    inputs = [torch.randn(5, 2, 8) * scale for scale in (1, 10, 100)]
    layer = quantized(nn.MultiheadAttention(8, 2), inputs).layer
    steps = [getattr(layer, name).step.item() for name in layer.inputs]
    assert 5 < steps[1] / steps[0] < 20 and 5 < steps[2] / steps[1] < 20
    assert layer.weight_quantizer.step.shape == (24,)


def test_the_output_projection_is_a_quantized_layer_that_is_called():
    inputs = [torch.randn(5, 2, 8)] * 3
    layer = quantized(nn.MultiheadAttention(8, 2), inputs).layer
    assert type(layer.out_proj) is QuantizedLinear
    before = layer(*inputs)[0]
    layer.out_proj.weight_quantizer.step.data *= 2
    assert not torch.equal(layer(*inputs)[0], before)


@pytest.mark.parametrize(('skipped', 'kept'), [('*.out_proj', 'layer'), ('layer', 'layer.out_proj')])
def test_attention_and_its_output_projection_can_be_skipped_one_without_the_other(skipped, kept):
    inputs = [torch.randn(5, 2, 8)] * 3
    plain = nn.MultiheadAttention(8, 2)
    expected = plain(*inputs)[0]
    model = quantized(plain, inputs, dict(rules=[dict(name=skipped, skip=True)]))
    assert {name.rpartition('.')[0] for name, _ in quantizers(model)} == {kept}
    assert not torch.equal(model(inputs), expected)
    with disabled(model):
        assert torch.equal(model(inputs), expected)


@pytest.mark.parametrize('options', [dict(kdim=6), dict(vdim=6), dict(add_bias_kv=True), dict(add_zero_attn=True)])
def test_attention_of_other_kinds_stays_in_full_precision_with_its_output_projection(options):
    attention = nn.MultiheadAttention(8, 2, **options)
    model = quantize_model(nn.Sequential(nn.Linear(8, 8), attention))
    assert type(attention) is nn.MultiheadAttention
    assert [name for name, _ in quantizers(model) if name.startswith('1')] == []


def test_torchs_fused_encoder_layer_does_not_pass_by_the_quantizers():
    encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    x = torch.randn(2, 5, 8)
    model = quantize_model(nn.Sequential(encoder))
    calibrate(model, [x])
    training = model.train()(x)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), training)
        with disabled(model):
            assert not torch.allclose(model(x), training, rtol=1e-3, atol=1e-3)


# ---------------------------------------------------------------- models
def test_every_layer_of_mmpretrains_vision_transformer_is_called():
    model = VisionTransformer(
        dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32), img_size=32, patch_size=16
    )
    x = torch.randn(2, 3, 32, 32)
    model.eval()
    expected = model(x)[0]
    assert calibrate(quantize_model(model), [x]) == []
    table = layer_table(model)
    assert all(f'layers.{i}.{name}' in table for i in (0, 1) for name in ('attn.qkv', 'attn.proj', 'ffn.layers.1'))
    with disabled(model):
        assert torch.equal(model(x)[0], expected)


@pytest.mark.parametrize(
    ('config', 'kinds'),
    [
        ('detr/detr_r50_8xb2-150e_coco.py', {'MultiheadAttention', 'Linear', 'Conv2d'}),
        (
            'centernet/centernet_r18-dcnv2_8xb16-crop512-140e_coco.py',
            {'ModulatedDeformConv2dPack', 'ConvTranspose2d', 'Conv2d'},
        ),
    ],
)
def test_detectors_of_these_layers_run_quantized_and_unchanged_when_disabled(config, kinds):
    cfg = Config.fromfile(SHIPPED / config).model
    cfg.backbone.update(init_cfg=None, depth=18)
    if 'detr' in config:
        cfg.neck.in_channels = [512]
        cfg.encoder.num_layers = cfg.decoder.num_layers = 1
    model = MODELS.build(cfg).eval()
    data = model.data_preprocessor(demo_mm_inputs(1, [[3, 64, 64]], num_classes=80), False)
    with torch.no_grad():
        expected = model(**data, mode='tensor')
        assert calibrate(quantize_model(model, 'w8a8'), [data], lambda batch: model(**batch, mode='tensor')) == []
        got = model(**data, mode='tensor')
        with disabled(model):
            unchanged = model(**data, mode='tensor')
    assert {type(m).original_type().__name__ for m in model.modules() if isinstance(m, QuantizedLayer)} == kinds
    assert all(torch.equal(a[0], b[0]) for a, b in zip(unchanged, expected))
    assert not any(torch.equal(a[0], b[0]) for a, b in zip(got, expected))
    assert any(isinstance(m, QuantizedMultiheadAttention) for m in model.modules()) == ('detr' in config)
