"""Layouts and dtypes of quantized values, what backward keeps of them, and gradients of what it computes again."""

import copy
import gc

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmacs.quantization import calibrate, disabled, fake_quant, quantize_model, quantizers
from mmacs.quantization.fake_quant import lsq_quantize, round_to_levels
from mmacs.quantization.layers import attention, convolution, linear
from mmacs.quantization.layers import base as layer_base
from mmacs.quantization.memory_order import PIECE
from mmacs.quantization.quantizers import LSQ, PACT, base

from .test_layers import LAYERS, quantized
from .test_quantizer_family import PAIRS, build, calibrated, values

LAYOUTS = {
    'contiguous': lambda x: x.contiguous(),
    'channels_last': lambda x: x.contiguous(memory_format=torch.channels_last),
    'transposed': lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    'with gaps': lambda x: torch.stack([x, x], -1)[..., 0],
}


@pytest.mark.parametrize(('name', 'kind'), PAIRS)
@pytest.mark.parametrize('channels', [1, 4])
def test_channels_last_in_channels_last_out_and_the_same_values_and_gradients(name, kind, channels):
    if kind == 'activation' and channels > 1:
        pytest.skip('activations have one range')
    x, upstream = values(), values(seed=1)
    found = []
    for layout in ('contiguous', 'channels_last'):
        quantizer = calibrated(build(name, kind, num_channels=channels, signed=True), x)
        given = LAYOUTS[layout](x).clone(memory_format=torch.preserve_format).requires_grad_()
        y = quantizer(given)
        y.backward(LAYOUTS[layout](upstream))
        assert y.stride() == given.stride(), layout
        assert quantizer.replaces_weight or given.grad.stride() == given.stride(), layout
        found.append([y, given.grad, *(parameter.grad for parameter in quantizer.parameters())])
    for one, other in zip(*found):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('channels', [1, 6])
@pytest.mark.parametrize('size', [5, 160])
def test_any_layout_and_dtype_gives_what_float32_in_one_piece_gives(layout, dtype, channels, size):
    assert (6 * 5 * size * size > PIECE) == (size == 160)
    x, upstream = (LAYOUTS[layout](torch.randn(6, 5, size, size)).to(dtype) for _ in range(2))
    x, step = x.requires_grad_(), (torch.rand(channels) * 0.2 + 0.2).requires_grad_()
    y = lsq_quantize(x, step, -8, 7)
    grad_x, grad_step = torch.autograd.grad(y, (x, step), upstream)

    s, units = step.detach().view(-1, 1, 1, 1), x.detach().float() / step.detach().view(-1, 1, 1, 1)
    inside = (units > -8) & (units < 7)
    zero_points = torch.zeros(channels, dtype=torch.int32)
    expected = (
        torch.fake_quantize_per_channel_affine(
            x.detach().float(), step.detach().expand(channels), zero_points, 0, -8, 7
        )
        if channels > 1
        else torch.fake_quantize_per_tensor_affine(x.detach().float(), s.item(), 0, -8, 7)
    )
    assert torch.equal(y, expected.to(dtype))
    assert torch.equal(grad_x, torch.where(inside, upstream, 0))
    error = torch.where(inside, units.round() - units, units.clamp(-8, 7))
    wanted = (upstream.double() * error).reshape(channels, -1).sum(1) / (x.numel() / channels * 7) ** 0.5
    torch.testing.assert_close(grad_step.double(), wanted, rtol=1e-3, atol=1e-3)
    assert grad_x.dtype == y.dtype == dtype


@pytest.mark.parametrize('channels', [1, 3])
def test_values_are_those_of_torchs_kernels_bit_for_bit(channels):
    x, step = torch.randn(3, 7, 50) * 4, torch.rand(channels) + 0.01
    if channels > 1:
        zero_points = torch.zeros(channels, dtype=torch.int32)
        expected = torch.fake_quantize_per_channel_affine(x, step, zero_points, 0, -8, 7)
    else:
        expected = torch.fake_quantize_per_tensor_affine(x, step.item(), 0, -8, 7)
    assert torch.equal(round_to_levels(x, step, -8, 7), expected)


# ---------------------------------------------------------------- what backward keeps and computes again
def tensors_of_shape(shape):
    """Number of storages that tensors of a shape, or of its transpose, have."""
    found = [
        x for x in gc.get_objects() if type(x) in (torch.Tensor, nn.Parameter) and sorted(x.shape) == sorted(shape)
    ]
    return len({x.untyped_storage().data_ptr() for x in found})


def composed(monkeypatch):
    """Have layers and quantizers leave everything to autograd."""
    for module in (attention, convolution, linear, layer_base):
        monkeypatch.setattr(module, 'recomputed', lambda function, *inputs: function(*inputs))
    monkeypatch.setattr(base, 'keeping_inputs', lambda function, *inputs: function(*inputs))


def inputs_are_sequences(name):
    return name == 'linear' or 'attention' in name


@pytest.mark.parametrize('name', LAYERS)
@pytest.mark.parametrize('dtype', [None, torch.bfloat16])
@pytest.mark.parametrize('layout', ['contiguous', 'channels_last'])
@pytest.mark.parametrize('method', ['LSQ', 'PACT'])
def test_gradients_of_layers_are_those_of_the_plain_composed_expression(monkeypatch, name, dtype, layout, method):
    if dtype is not None and ('deformable' in name or 'modulated' in name):
        pytest.skip('mmcv has no deformable convolution of bfloat16 for CPUs')
    if layout == 'channels_last' and ('deformable' in name or 'modulated' in name or inputs_are_sequences(name)):
        pytest.skip("sequences have no channels_last, and mmcv's deformable convolutions want it contiguous")
    if layout == 'channels_last' and name == 'adaptively standardized':
        pytest.skip("mmcv's ConvAWS2d takes a contiguous weight alone")
    make, makers = LAYERS[name]
    inputs = [LAYOUTS[layout](make()) if layout == 'channels_last' else make() for make in makers]
    model = quantized(make(), inputs, dict(preset='w8a8', weight=dict(type='LSQ'), activation=dict(type=method)))
    if layout == 'channels_last':
        model = model.to(memory_format=torch.channels_last)
    twin = copy.deepcopy(model)

    def gradients(model):
        given = [x.clone(memory_format=torch.preserve_format).requires_grad_() for x in inputs]
        with torch.autocast('cpu', dtype=dtype, enabled=dtype is not None):
            y = model(given)
        y.float().square().sum().backward()
        return [y, *(x.grad for x in given), *(parameter.grad for parameter in model.parameters())]

    found = gradients(model)
    composed(monkeypatch)
    for one, other in zip(found, gradients(twin)):
        torch.testing.assert_close(
            one, other, rtol=1e-4 if dtype is None else 2e-2, atol=1e-5 if dtype is None else 1e-2
        )


@pytest.mark.parametrize('method', ['LSQ', 'LSQPlus', 'PACT', 'EMAMinMax', 'OCTAV'])
@pytest.mark.parametrize('dtype', [None, torch.bfloat16])
def test_quantized_values_are_not_kept_for_backward(method, dtype):
    x = torch.randn(2, 7, 11, 13)
    model = quantize_model(nn.Sequential(nn.Conv2d(7, 5, 3)), dict(preset='w4a4', activation=dict(type=method)))
    calibrate(model, [x])
    x = x.to(dtype or torch.float32).requires_grad_()
    gc.collect()
    before = tensors_of_shape(x.shape), tensors_of_shape((5, 7, 3, 3))
    with torch.autocast('cpu', dtype=dtype, enabled=dtype is not None):
        y = model(x)
    assert (tensors_of_shape(x.shape), tensors_of_shape((5, 7, 3, 3))) == before
    held = sum(t.untyped_storage().nbytes() for t in saved_tensors(y.grad_fn, x))
    assert held == 0
    y.float().sum().backward()


def test_a_weight_that_levels_share_is_computed_again_once_in_backward(monkeypatch):
    runs = []

    def counted(x, step, *args, original=fake_quant.quantized_values, **kwargs):
        runs.append(step.numel())
        return original(x, step, *args, **kwargs)

    monkeypatch.setattr(fake_quant, 'quantized_values', counted)
    layer, levels = nn.Conv2d(4, 6, 3), [torch.randn(1, 4, size, size) for size in (9, 7, 5)]
    model = quantize_model(nn.Sequential(layer), 'w4a4')
    calibrate(model, levels)
    gradients = []
    for shared in (True, False):
        layer.weights_of_this_forward = {} if shared else None
        model.zero_grad()
        outputs = [model(x) for x in levels]
        held = layer.weights_of_this_forward
        layer.weights_of_this_forward = None
        runs.clear()
        for _ in range(2):
            sum(y.sum() for y in outputs).backward(retain_graph=True)
        assert runs.count(6) == (2 if shared else 6)  # steps of a weight with six channels
        assert not shared or held[True].origin.function.result is None
        outputs[0].sum().backward()  # two levels of three never come
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other)


def saved_tensors(node, *known):
    """Tensors of a graph's nodes, other than some known ones and what is small."""
    storages = {x.untyped_storage().data_ptr() for x in known}
    todo, found = [node], {}
    while todo:
        node = todo.pop()
        for x in getattr(node, 'saved_tensors', ()):
            if x is not None and x.untyped_storage().data_ptr() not in storages and x.numel() > 315:
                found[x.untyped_storage().data_ptr()] = x
        todo += [parent for parent, _ in node.next_functions if parent is not None]
    return found.values()


def test_a_quantized_tensor_that_is_written_to_is_kept_as_it_then_is():
    model = quantize_model(nn.Sequential(nn.Conv2d(2, 3, 3)))
    x = torch.randn(1, 2, 5, 5)
    calibrate(model, [x])
    model[0].input_quantizer.register_forward_hook(lambda module, args, y: y.mul_(2.0))
    model(x).sum().backward()
    quantized_x = model[0].input_quantizer(x).detach()
    expected = torch.nn.grad.conv2d_weight(quantized_x, model[0].weight.shape, torch.ones(1, 3, 3, 3))
    inside = model[0].weight_quantizer(model[0].weight).detach()
    passes = (inside / model[0].weight_quantizer.step.detach().view(-1, 1, 1, 1)).round().abs() < 7
    torch.testing.assert_close(model[0].weight.grad[passes], expected[passes])


class OwnQuantizer(PACT):
    """What users write: with a parameter of its own, random rounding, and arithmetic that autocast knows."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.alpha = nn.Parameter(torch.tensor(1.5))
        self.drawn = []
        self.seen = []

    def refresh(self, x, level):
        self.seen.append((x.dtype, torch.equal(self.by_channel(x).view_as(x), x)))

    def fake_quantize(self, x, step, q_min, q_max):
        self.drawn.append(torch.rand_like(x))
        units = (x / step).clamp(q_min, q_max)
        return (units + ((units + self.drawn[-1]).floor() - units).detach()) * step * self.alpha


def calibrated_convolution(x, quantizer=None):
    model = quantize_model(nn.Sequential(nn.Conv2d(2, 3, 3)), 'w4a4')
    if quantizer is not None:
        model[0].input_quantizer = quantizer
    calibrate(model, [x])
    return model


def test_a_quantizer_of_a_users_own_is_left_to_autograd():
    x = torch.randn(1, 2, 5, 5)
    quantizer = OwnQuantizer(bits=4)
    model = calibrated_convolution(x, quantizer)
    assert not quantizer.drawn
    model(x).sum().backward()
    assert len(quantizer.drawn) == 1  # nothing is drawn anew in backward

    step, alpha = quantizer.grid().step.detach(), quantizer.alpha.detach()
    unscaled = ((x / step).clamp(-8, 7) + quantizer.drawn[0]).floor() * step
    weight = model[0].quantized_weight().detach()
    ones = torch.ones(1, 3, 3, 3)
    grad_x = torch.nn.grad.conv2d_input(x.shape, weight, ones)
    torch.testing.assert_close(quantizer.alpha.grad, (grad_x * unscaled).sum())
    passes = (model[0].weight.detach() / model[0].weight_quantizer.step.detach().view(-1, 1, 1, 1)).abs() < 7
    expected = torch.nn.grad.conv2d_weight(unscaled * alpha, weight.shape, ones)
    torch.testing.assert_close(model[0].weight.grad[passes], expected[passes])


def test_what_a_quantizer_says_holds_for_its_own_methods_alone():
    class Inherits(LSQ):
        def combine(self, statistics):
            return statistics[0]

    class Overrides(LSQ):
        def fake_quantize(self, x, step, q_min, q_max):
            return round_to_levels(x, step, q_min, q_max)

    class Says(Overrides):
        recomputable = True

        def fake_quantize(self, x, step, q_min, q_max):
            return super().fake_quantize(x, step, q_min, q_max)

    assert [(kind.recomputable, kind.fused) for kind in (Inherits, Overrides, Says)] == [
        (True, True),
        (False, False),
        (True, False),
    ]


@pytest.mark.parametrize('kind', [OwnQuantizer, type('OfLSQ', (LSQ,), dict(refresh=OwnQuantizer.refresh, seen=[]))])
def test_ranges_follow_float32_values_in_logical_order(kind):
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    quantizer = calibrated(kind(bits=4), x)
    quantizer(x.bfloat16())
    assert quantizer.seen == [(torch.float32, True)]


def test_what_a_quantizer_multiplies_is_float32_under_autocast_in_backward_too():
    dtypes = []

    class Rotated(PACT):
        recomputable = True

        def fake_quantize(self, x, step, q_min, q_max):
            turned = x @ torch.eye(x.shape[-1])
            dtypes.append(turned.dtype)
            return super().fake_quantize(turned, step, q_min, q_max)

    x = torch.randn(1, 2, 5, 5)
    model = calibrated_convolution(x, Rotated(bits=4))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        y = model(x)
    assert y.dtype == torch.bfloat16 and len(dtypes) == 1
    y.float().sum().backward()
    assert len(dtypes) > 1 and set(dtypes) == {torch.float32}


def test_disabled_quantizers_leave_second_derivatives():
    x = torch.randn(2, 4, 6)
    layers = [nn.Linear(6, 5), nn.Tanh(), nn.Unflatten(0, (1, 2)), nn.Conv2d(2, 3, 3), nn.Tanh()]
    original = nn.Sequential(*copy.deepcopy(layers))
    model = quantize_model(nn.Sequential(*layers), 'w4a4')
    calibrate(model, [x])

    def second(model):
        given = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(model(given).square().sum(), given, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), [given, model[0].weight, model[3].weight])

    with disabled(model):
        for one, other in zip(second(model), second(original)):
            assert torch.equal(one, other) and one.any()


# ---------------------------------------------------------------- host reads
class Reads(TorchDispatchMode):
    """Counts tensors that become Python numbers, which stalls a GPU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('method', ['LSQ', 'EMAMinMax', 'PACT'])
def test_a_training_step_reads_nothing_but_on_a_cpu_what_costs_nothing_there(monkeypatch, method):
    """On a CPU a step and the sum of values may be read, by :func:`reads_are_free`; elsewhere nothing is.

    Buffers are written to before each step, as DistributedDataParallel's ``broadcast_buffers`` does.
    """
    model = quantize_model(
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)),
        dict(preset='w4a4', weight=dict(type=method), activation=dict(type=method)),
    )
    x = torch.randn(2, 2, 9, 9)
    calibrate(model, [x])
    model.train()

    def reads():
        with torch.no_grad():
            for buffer in model.buffers():
                buffer.copy_(buffer.clone())
        with Reads() as mode:
            model(x).sum().backward()
        return mode.count

    reads()
    assert reads() > 0  # on a CPU
    for module in (fake_quant, base):
        monkeypatch.setattr(module, 'reads_are_free', lambda tensor: False)
    assert reads() == 0
    assert not any(quantizer.met_nonfinite for _, quantizer in quantizers(model))
    model(x * float('nan'))
    assert model[0].input_quantizer.met_nonfinite
    assert 'met_nonfinite' not in dict(model[0].input_quantizer.named_buffers())
