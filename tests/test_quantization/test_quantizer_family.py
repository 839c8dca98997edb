"""What every quantizer has to do, whatever its method."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmacs.quantization.quantizers import Quantizer
from mmacs.quantization.recipe import parameters_of
from mmacs.registry import QUANTIZERS
from mmacs.utils.errors import MmacsError

NAMES = sorted(QUANTIZERS.classes)
SHAPE = (4, 3, 5, 5)
PAIRS = [(name, kind) for name in NAMES for kind in QUANTIZERS.find(name).kinds]
UNIFORM = [(name, kind) for name, kind in PAIRS if QUANTIZERS.find(name).uniform]


def build(name, kind='activation', **kwargs) -> Quantizer:
    quantizer = QUANTIZERS.find(name)
    if 'shape' in parameters_of(quantizer):
        kwargs['shape'] = SHAPE
    return quantizer(kind=kind, **kwargs)


def calibrated(quantizer, *batches) -> Quantizer:
    quantizer.start_observing()
    for x in batches:
        quantizer(x)
    quantizer.finish_observing()
    return quantizer


def values(scale=1.0, seed=0, unsigned=False):
    x = scale * torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
    return x.abs() if unsigned else x


@pytest.mark.parametrize(('name', 'kind'), UNIFORM)
@settings(max_examples=25, deadline=None)
@given(
    bits=st.integers(1, 8),
    per_channel=st.booleans(),
    unsigned=st.booleans(),
    power_of_two=st.booleans(),
    scale=st.floats(1e-4, 1e3),
    seed=st.integers(0, 10),
)
def test_values_lie_on_the_grid_and_are_monotone(name, kind, bits, per_channel, unsigned, power_of_two, scale, seed):
    channels = SHAPE[0] if per_channel and kind == 'weight' else 1
    signed = True if kind == 'weight' else None
    quantizer = build(name, kind, bits=bits, num_channels=channels, signed=signed, power_of_two=power_of_two)
    x = values(scale, seed, unsigned)
    with torch.no_grad():
        y = calibrated(quantizer, x).eval()(x)
        step, offset, q_min, q_max = quantizer.grid()
        k = ((y.reshape(channels, -1) - (0 if offset is None else offset[:, None])) / step[:, None]).double()
    assert (step > 0).all()
    assert q_max - q_min == 2**bits - 1
    assert (k - k.round()).abs().max() < 1e-2
    assert k.round().min() >= q_min
    assert k.round().max() <= q_max
    if power_of_two:
        assert torch.equal(step.log2(), step.log2().round())
    for row, quantized in zip(x.reshape(channels, -1), y.reshape(channels, -1)):
        assert (quantized[row.argsort()].diff() >= -1e-6 * scale).all()
        assert len(quantized.unique()) <= 2**bits


@pytest.mark.parametrize(('name', 'kind'), [pair for pair in UNIFORM if pair != ('DoReFa', 'weight')])
def test_quantizing_twice_is_quantizing_once(name, kind):
    quantizer = calibrated(build(name, kind, signed=True), values())
    with torch.no_grad():
        once = quantizer.eval()(values())
        grid = quantizer.grid()
        quantizer.refresh = lambda x, level: None  # of ranges that follow the values, only the grid can be idempotent
        assert quantizer.grid() == grid
        torch.testing.assert_close(quantizer(once), once)


@pytest.mark.parametrize(('name', 'kind'), PAIRS)
@pytest.mark.parametrize('bits', [1, 2, 4, 8, 16])
def test_any_bit_width_gives_finite_values_and_gradients(name, kind, bits):
    bits = min(bits, 8) if name == 'SLB' else bits  # it keeps 2^bits numbers for each weight
    quantizer = calibrated(
        build(name, kind, bits=bits, signed=True, num_channels=4 if kind == 'weight' else 1), values()
    )
    x = values().requires_grad_()
    y = quantizer(x)
    y.square().sum().backward()
    assert torch.isfinite(y).all()
    if not quantizer.replaces_weight:
        assert x.grad.abs().sum() > 0
    for parameter in quantizer.parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()


@pytest.mark.parametrize(('name', 'kind'), PAIRS)
def test_more_bits_lie_closer(name, kind):
    def error(bits):
        quantizer = calibrated(build(name, kind, bits=bits, signed=True), values(0.1))
        with torch.no_grad():
            return (quantizer(values(0.1)) - values(0.1)).square().mean()

    assert error(8) < error(4) < error(2)


@pytest.mark.parametrize(('name', 'kind'), PAIRS)
def test_dead_channels_and_constants_survive(name, kind):
    x = values()
    x[1] = 0
    channels = 4 if kind == 'weight' else 1
    for case in (x, torch.zeros(SHAPE), torch.full(SHAPE, 3.0)):
        quantizer = calibrated(build(name, kind, num_channels=channels), case)
        case = case.clone().requires_grad_()
        y = quantizer(case)
        y.sum().backward()
        assert torch.isfinite(y).all()
        assert all(torch.isfinite(parameter.grad).all() for parameter in quantizer.parameters())


@pytest.mark.parametrize(('name', 'kind'), PAIRS)
@pytest.mark.parametrize('poison', [float('nan'), float('inf')])
def test_nan_and_inf_name_the_layer(name, kind, poison):
    quantizer = calibrated(build(name, kind), values())
    quantizer.name = 'neck.conv.quantizer'
    x = values()
    x[0, 0, 0, 0] = poison
    for mode in (True, False):
        with pytest.raises(MmacsError, match='neck.conv.quantizer met NaN or Inf'):
            quantizer.train(mode)(x)


@pytest.mark.parametrize(
    ('name', 'kind'), [pair for pair in UNIFORM if next(build(*pair).parameters(), None) is not None]
)
def test_steps_stay_positive_under_any_learning_rate(name, kind):
    quantizer = calibrated(build(name, kind, signed=True), values())
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=1e4)
    for seed in range(5):
        quantizer(values(seed=seed)).square().sum().backward()
        optimizer.step()
        assert (quantizer.grid().step > 0).all()
        assert torch.isfinite(quantizer.grid().step).all()


@pytest.mark.parametrize(('name', 'kind'), PAIRS)
def test_state_is_complete_from_construction_and_restores_the_function(name, kind):
    kwargs = dict(bits=3, signed=True, num_channels=4 if kind == 'weight' else 1)
    quantizer, fresh = build(name, kind, **kwargs), build(name, kind, **kwargs)
    keys = {key: value.shape for key, value in quantizer.state_dict().items()}
    calibrated(quantizer, values())
    quantizer(values())
    assert {key: value.shape for key, value in quantizer.state_dict().items()} == keys
    fresh.load_state_dict(quantizer.state_dict())
    with torch.no_grad():
        expected = quantizer.eval()(values())
        for twin in (fresh, copy.deepcopy(quantizer), pickle.loads(pickle.dumps(quantizer))):
            assert torch.equal(twin.eval()(values()), expected)


@pytest.mark.parametrize(('name', 'kind'), PAIRS)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_in_half_precision_out_with_arithmetic_in_float32(name, kind, dtype):
    quantizer = calibrated(build(name, kind, bits=8, signed=True), values()).eval()
    x = values().to(dtype)
    with torch.no_grad(), torch.autocast('cpu', dtype=torch.bfloat16):
        y = quantizer(x)
    assert y.dtype == dtype
    with torch.no_grad():
        assert torch.equal(y, quantizer(x.float()).to(dtype))


@pytest.mark.parametrize('name', [name for name, kind in UNIFORM if kind == 'activation'])
def test_each_pyramid_level_has_its_range(name):
    quantizer = build(name, num_levels=2)
    quantizer.start_observing()
    for scale in (1, 10):
        quantizer(values(scale))
    quantizer.finish_observing()
    quantizer.calls = 0
    with torch.no_grad():
        small, large = quantizer(values()), quantizer(values(10))
    assert large.abs().max() > 4 * small.abs().max()
    assert quantizer.grid(1).step > 4 * quantizer.grid(0).step
    assert quantizer.grid(1).step.shape == (1,)


@pytest.mark.parametrize(('name', 'kind'), [pair for pair in UNIFORM if not QUANTIZERS.find(pair[0]).replaces_weight])
def test_a_change_of_bits_keeps_the_range(name, kind):
    options = dict(init='mse') if name == 'LSQ' else {}
    quantizer = calibrated(build(name, kind, bits=8, signed=True, **options), values())
    step, _, q_min, q_max = quantizer.grid()
    quantizer.change_bits(4)
    after = quantizer.grid()
    assert after.q_max - after.q_min == 15
    assert (after.step * 15 / (step * 255)).item() == pytest.approx(1, rel=0.15)
    assert quantizer.state_dict()['step_bits'].item() == 4


@pytest.mark.parametrize(('name', 'kind'), PAIRS)
def test_state_of_another_type_of_quantizer_is_refused(name, kind):
    other = 'LSQ' if name not in ('LSQ', 'CPQ', 'KL', 'OCTAV') else 'TQT'
    state = calibrated(build(other, kind), values()).state_dict()
    with pytest.raises(MmacsError, match='use the recipe that the checkpoint was trained with'):
        build(name, kind).load_state_dict(state)


@pytest.mark.parametrize(('name', 'kind'), [pair for pair in PAIRS if pair[1] == 'activation'])
def test_levels_that_get_their_ranges_in_one_forward_can_be_trained(name, kind):
    """The range of a level is set while those of others are already kept for the gradient."""
    quantizer = build(name, kind, num_levels=3).train()
    inputs = [values(scale, seed).requires_grad_() for seed, scale in enumerate((1.0, 2.0, 3.0))]
    sum(quantizer(x).square().sum() for x in inputs).backward()
    assert all(x.grad.isfinite().all() and x.grad.any() for x in inputs)
