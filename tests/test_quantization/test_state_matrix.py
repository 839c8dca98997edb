"""A training step of every method under what torch does to models: autocast, compilers, copies, accumulation."""

import copy
import pickle

import pytest
import torch
from mmdet.models.backbones.resnet import BasicBlock
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from torch import nn

from mmacs.quantization import calibrate, quantize_model, quantizers
from mmacs.quantization.named_recipes import QUANTIZER_PAIRS
from mmacs.quantization.quantizers import LSQ, LSQPlus
from mmacs.utils.errors import MmacsError

from .test_quantizer_family import UNIFORM, build, calibrated, values

WAYS = {
    'plain': lambda model: model,
    'copied': copy.deepcopy,
    'pickled': lambda model: pickle.loads(pickle.dumps(model)),
}
# A learned step, an offset and an observer; tracing takes seconds, so the others are thorough
COMPILED_ALWAYS = ('LSQ', 'LSQ+', 'EMA')

# CPQ-DropBits is CPQ with levels that are drawn; what SDQ has, LSQ and SDQ-log have
METHODS = [method for method in QUANTIZER_PAIRS if method not in ('CPQ-DropBits', 'SDQ')]


def images(seed=0, size=(6, 7)):
    return torch.randn(4, 2, *size, generator=torch.Generator().manual_seed(seed))


def recipe(method, **more):
    weight, activation = QUANTIZER_PAIRS[method]
    return dict(preset='w4a4', weight=weight, activation=activation, **more)


def unset(method):
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )
    nn.init.constant_(model[1].running_mean, 0.01)  # a trained one, which calibration takes as it is
    return quantize_model(model, recipe(method))


@pytest.fixture(params=METHODS)
def model(request):
    """A convolution and a linear layer, quantized by one method, with ranges, in train mode."""
    model = unset(request.param)
    assert calibrate(model, [images() * 0.3]) == []  # so that some values lie outside, which PACT learns from alone
    return model.train()


@pytest.fixture(autouse=True)
def _no_compiled_code():
    yield
    torch._dynamo.reset()


def step(call, x):
    """One forward and backward of a callable; the loss."""
    loss = nn.functional.cross_entropy(call(x).float(), torch.arange(len(x)) % 3)
    loss.backward()
    return loss.detach()


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_trained(model, loss):
    """The loss and all gradients are finite, and everything that is to learn has one."""
    assert torch.isfinite(loss)
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name
    for name, quantizer in quantizers(model):
        found = [parameter.grad.abs().sum() > 0 for parameter in quantizer.parameters()]
        assert not found or any(found), name


def assert_same(model, other, **tolerance):
    """Gradients and buffers are those of the other model."""
    for got, expected in (
        (gradients(model), gradients(other)),
        (dict(model.named_buffers()), dict(other.named_buffers())),
    ):
        assert got.keys() == expected.keys()
        for name in got:
            torch.testing.assert_close(got[name], expected[name], **tolerance, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize('way', WAYS)
def test_a_step_trains_everything_and_copies_take_the_same(model, way):
    other = WAYS[way](model)
    twin = copy.deepcopy(other)
    loss = step(other, images())
    assert_trained(other, loss)
    assert torch.equal(step(twin, images()), loss)
    assert_same(twin, other, rtol=0, atol=0)
    if way != 'plain':
        assert gradients(model) == {}
        twin.load_state_dict(model.state_dict())
        twin.zero_grad()
        step(twin, images())
        step(model, images())
        assert_same(twin, model, rtol=0, atol=0)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_under_autocast_quantizers_compute_in_float32(model, dtype):
    twins = dict(quantizers(copy.deepcopy(model)))
    seen = []

    def compare(quantizer, args, output):
        (x,) = args
        seen.append(x.dtype)
        assert output.dtype == x.dtype
        assert torch.equal(output, twins[quantizer.name](x.float()).to(x.dtype)), quantizer.name

    for _, quantizer in quantizers(model):
        quantizer.register_forward_hook(compare)
    with torch.autocast('cpu', dtype=dtype):
        loss = step(model, images())
    assert dtype in seen
    assert_trained(model, loss)


def test_accumulated_gradients_are_the_sum_of_those_of_the_micro_batches(model):
    twin = copy.deepcopy(model)
    for seed in (1, 2):
        step(model, images(seed))
    total = {}
    for seed in (1, 2):  # ranges that follow the data have moved in between
        twin.zero_grad()
        step(twin, images(seed))
        total = {name: found + total.get(name, 0) for name, found in gradients(twin).items()}
    torch.testing.assert_close(gradients(model), total, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    'model',
    [pytest.param(method, marks=[] if method in COMPILED_ALWAYS else pytest.mark.thorough) for method in METHODS],
    indirect=True,
)
def test_a_compiled_step_is_one_graph_with_the_same_result(model):
    """For images of any size, as detectors see them."""
    model = model[0]
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, backend='aot_eager', fullgraph=True, dynamic=True)
    for seed, size in enumerate([(6, 7), (9, 8)]):
        x = images(seed, size)
        losses = []
        for call in (model, compiled):
            losses.append(call(x).square().mean())
            losses[-1].backward()
        torch.testing.assert_close(*losses)
        assert_same(twin, model)
    assert_trained(twin, losses[1])


def test_a_compiled_model_without_ranges_takes_them_from_its_first_batch():
    model = unset('LSQ').train()
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, backend='eager')
    for seed in (1, 2):
        torch.testing.assert_close(step(compiled, images(seed)), step(model, images(seed)))
        assert_same(twin, model)


def test_a_compiled_model_follows_what_is_loaded():
    model, other = unset('LSQ'), unset('LSQ')
    calibrate(model, [images()])
    calibrate(other, [images().abs() * 9])  # without negative values
    compiled = torch.compile(model.eval(), backend='eager')
    with torch.no_grad():
        before = compiled(images())
        model.load_state_dict(other.state_dict())
        assert torch.equal(compiled(images()), other.eval()(images()))
        assert not torch.equal(compiled(images()), before)


def test_a_compiled_head_has_the_steps_of_each_level(tiny_retinanet):
    model = MODELS.build(tiny_retinanet)
    data = model.data_preprocessor(demo_mm_inputs(1, [[3, 64, 64]], num_classes=3), False)
    quantize_model(model)
    calibrate(model, [data], lambda batch: model(**batch, mode='predict'))
    features = [torch.randn(1, 16, 2**i, 2**i) for i in range(4, -1, -1)]
    head = model.bbox_head.train()
    twin = copy.deepcopy(head)
    compiled = torch.compile(twin, backend='eager', fullgraph=True)
    for _ in range(2):
        for call in (head, compiled):
            sum(out.square().sum() for outputs in call(features) for out in outputs).backward()
        assert_same(twin, head)


def test_blocks_with_quantized_additions_run_in_a_compiled_model():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), BasicBlock(4, 4), nn.Flatten(), nn.LazyLinear(3))
    model(images())
    quantize_model(model, recipe('LSQ', additions=dict(bits=4)))
    calibrate(model, [images()])
    twin = copy.deepcopy(model.train())
    compiled = torch.compile(twin, backend='eager', fullgraph=True)
    for _ in range(2):
        torch.testing.assert_close(step(compiled, images()), step(model, images()))
        assert_same(twin, model)
    assert_trained(twin, torch.zeros(()))


def test_a_copy_that_is_written_into_through_data_has_the_flags():
    source = LSQ()
    copied = copy.deepcopy(source).train()  # an averaged model is copied before calibration
    source(images())
    for own, given in zip(copied.state_dict().values(), source.state_dict().values()):
        own.data.copy_(given.data)
    assert torch.equal(copied(images()), source(images()))


# Where values are exactly at an end of the range, rectified ones at 0 most of all, the paper's gradient is 0
@pytest.mark.parametrize('per_channel', [False, True])
def test_at_the_ends_of_the_range_no_gradient_passes(per_channel):
    quantizer = LSQ(bits=2, signed=False, kind='weight', num_channels=2 if per_channel else 1)
    quantizer(torch.ones(2, 4))
    quantizer.step.data.fill_(0.5)
    x = torch.tensor([[-1.0, 0.0, 0.5, 1.5]] * 2, requires_grad=True)
    quantizer(x).sum().backward()
    assert x.grad.tolist() == [[0, 0, 1, 0]] * 2


LEARNED = [pair for pair in UNIFORM if next(build(*pair).parameters(), None) is not None]


def learning(name, kind):
    """A calibrated quantizer."""
    return calibrated(build(name, kind, signed=True), values())


@pytest.mark.parametrize(('name', 'kind'), LEARNED)
@pytest.mark.parametrize('value', [0.0, -0.3, -1e-40, 1e-40])
def test_whatever_the_optimizer_makes_of_what_is_learned_steps_are_positive(name, kind, value):
    quantizer = learning(name, kind)
    for parameter in quantizer.parameters():
        parameter.data.fill_(value)
    y = quantizer(values())
    y.square().sum().backward()
    assert (quantizer.grid().step > 0).all()
    assert torch.isfinite(y).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in quantizer.parameters())


@pytest.mark.parametrize(('name', 'kind'), LEARNED)
@pytest.mark.parametrize('value', [float('inf'), float('-inf'), float('nan')])
@pytest.mark.parametrize('training', [True, False])
def test_what_is_learned_as_nan_or_inf_names_the_layer(name, kind, value, training):
    quantizer = learning(name, kind).train(training)
    quantizer.name = 'neck.conv.quantizer'
    for parameter_name, parameter in quantizer.named_parameters():
        kept = parameter.detach().clone()
        parameter.data[0] = value
        with pytest.raises(
            MmacsError, match=f'neck.conv.quantizer learned NaN or Inf as its {parameter_name}: .* lower'
        ):
            quantizer(values())
        parameter.data.copy_(kept)
    quantizer(values())


def test_nan_in_a_weight_names_the_layer(model):
    for parameter in (model[5].weight, *model[5].weight_quantizer.parameters()):
        parameter.data.view(-1)[3 % parameter.numel()] = float('nan')
        with pytest.raises(MmacsError, match='^5.weight_quantizer (met|learned) NaN or Inf'):
            model(images())


def test_a_compiled_model_remembers_nan_and_names_the_layer():
    quantizer = LSQPlus()
    quantizer(values())
    quantizer.name = 'neck.conv.quantizer'
    compiled = torch.compile(quantizer, backend='eager', fullgraph=True)
    compiled(images())
    assert not quantizer.met_nonfinite
    quantizer.offset.data.fill_(float('inf'))
    compiled(images())
    assert quantizer.met_nonfinite
    with pytest.raises(MmacsError, match='neck.conv.quantizer learned NaN or Inf as its offset'):
        quantizer.refuse_nonfinite()
