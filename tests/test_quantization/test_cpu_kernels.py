"""The compiled functions against torch's operations, and what happens where they can't be compiled or don't fit."""

import shutil

import pytest
import torch
from torch._subclasses import FakeTensorMode

from mmacs.quantization import cpu_kernels, fake_quant
from mmacs.quantization.fake_quant import _lsq_gradients, lsq_quantize, quantized_values
from mmacs.quantization.memory_order import PIECE

from .test_layouts import LAYOUTS

compiled = pytest.mark.skipif(not shutil.which('c++'), reason='there is no C++ compiler')


@pytest.fixture
def by_torch(monkeypatch):
    """Returns a function that calls another one without compiled functions."""

    def call(function, *args, **kwargs):
        with monkeypatch.context() as patch:
            patch.setattr(fake_quant, 'have_kernels', lambda *given: False)
            return function(*args, **kwargs)

    return call


@pytest.fixture
def anew():
    """Compiles anew, and once more for other tests."""
    cpu_kernels._library.cache_clear()
    yield
    cpu_kernels._library.cache_clear()


def bits(x):
    return x.view(torch.int32 if x.dtype == torch.float32 else torch.int16)


@compiled
@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('channels', [1, 6])
@pytest.mark.parametrize('size', [0, 3, 130])
@pytest.mark.parametrize('levels', [(-8, 7), (0, 15), (-3, 252)])
def test_values_and_gradients_are_bit_for_bit_those_of_torchs_operations(
    by_torch, layout, dtype, channels, size, levels
):
    assert size < 130 or 6 * 5 * size * size > PIECE
    x, grad = (LAYOUTS[layout](torch.randn(6, 5, size, size) * 2).to(dtype) for _ in range(2))
    step = torch.rand(channels) * 0.2 + 0.2
    assert cpu_kernels.have_kernels(step, x)
    sums = []
    y = quantized_values(x, step, *levels, sums.append)
    other = by_torch(quantized_values, x, step, *levels, sums.append)
    assert torch.equal(bits(y), bits(other)) and y.stride() == other.stride() and y.dtype == dtype
    assert sums[0] == pytest.approx(sums[1], rel=1e-3, abs=1e-2)
    if size:
        grad_x, grad_step = _lsq_gradients(grad, x, step, *levels)
        others = by_torch(_lsq_gradients, grad, x, step, *levels)
        assert torch.equal(bits(grad_x), bits(others[0])) and grad_x.stride() == others[0].stride()
        assert grad_step.dtype == torch.float32
        torch.testing.assert_close(grad_step, others[1], rtol=1e-3, atol=2e-2)


@compiled
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_ties_ends_zeros_and_huge_values_are_rounded_as_torch_does(by_torch, dtype):
    halves = torch.arange(-20, 20, 0.25)
    special = torch.tensor([-0.0, 0.0, 1e-45, -1e-45, 1e-38, 3e38, -3e38, float('inf'), -float('inf'), float('nan')])
    x = torch.cat([halves, halves * 0.3, halves.nextafter(torch.tensor(9.0)), special]).to(dtype)
    for step in (1.0, 0.3, 1e-30):
        for levels in ((-8, 7), (0, 15), (-1, 0)):
            args = x, torch.tensor([step]), *levels
            assert torch.equal(quantized_values(*args).isnan(), by_torch(quantized_values, *args).isnan())
            known = quantized_values(*args).nan_to_num(5), by_torch(quantized_values, *args).nan_to_num(5)
            assert torch.equal(*map(bits, known))
            found = _lsq_gradients(torch.ones_like(x), *args), by_torch(_lsq_gradients, torch.ones_like(x), *args)
            assert torch.equal(*(bits(grad_x) for grad_x, _ in found))


@compiled
@pytest.mark.parametrize('channels', [1, 4])
def test_the_number_of_threads_changes_nothing(channels):
    x, grad, step = torch.randn(4, 100_000), torch.randn(4, 100_000), torch.rand(channels) + 0.1
    threads, found = torch.get_num_threads(), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        sums = []
        found.append([quantized_values(x, step, -8, 7, sums.append), *_lsq_gradients(grad, x, step, -8, 7), *sums])
    torch.set_num_threads(threads)
    for one, other in zip(found[0] * 2, found[1] + found[2]):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))


@compiled
def test_a_gradient_that_is_one_number_in_memory_is_taken():
    x, step = torch.randn(3, 5, requires_grad=True), torch.rand(3, requires_grad=True)
    lsq_quantize(x, step, -8, 7).sum().backward()
    assert torch.equal(x.grad, ((x / step[:, None]).detach() > -8) * ((x / step[:, None]).detach() < 7) * 1.0)


@pytest.mark.parametrize('compiler', ['no_such_compiler', 'false', 'c++ --no-such-option', '"c++'])
def test_without_a_compiler_one_warning_is_given_and_results_are_the_same(monkeypatch, by_torch, anew, compiler):
    monkeypatch.setenv('CXX', compiler)
    x, step = torch.randn(4, 9, requires_grad=True), torch.rand(4, requires_grad=True)
    with pytest.warns(RuntimeWarning, match='could not be compiled.*Install a C\\+\\+ compiler') as warned:
        y = lsq_quantize(x, step, -8, 7)
        y.sum().backward()
    assert len(warned) == 1
    assert torch.equal(y, by_torch(lsq_quantize, x, step, -8, 7)) and step.grad.any()


@compiled
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning', 'ignore::DeprecationWarning')
def test_what_traces_or_only_pretends_to_compute_sees_torchs_operations():
    x, step = torch.randn(2, 3), torch.tensor([0.3])
    traced = torch.jit.trace(lambda x: quantized_values(x, step, -8, 7), x)
    other = torch.randn(2, 3)
    assert torch.equal(traced(other), quantized_values(other, step, -8, 7))
    with FakeTensorMode():
        assert not cpu_kernels.have_kernels(torch.rand(1), torch.randn(2, 3))
    for unfit in (x.half(), x.double(), x.to('meta'), x.as_subclass(type('Own', (torch.Tensor,), {}))):
        assert not cpu_kernels.have_kernels(step, unfit)
    assert not cpu_kernels.have_kernels(step.double(), x)
    assert not cpu_kernels.have_kernels(step, x, x.bfloat16())
