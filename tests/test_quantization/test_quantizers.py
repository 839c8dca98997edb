import copy
import pickle

import pytest
import torch

from mmacs.quantization.quantizers import LSQ
from mmacs.utils.errors import MmacsError


def calibrated(x, **kwargs):
    quantizer = LSQ(**kwargs)
    quantizer.start_observing()
    quantizer(x)
    quantizer.finish_observing()
    return quantizer


@pytest.mark.parametrize('bits', [0, 17, 32, 4.0, True, '4'])
def test_bits_out_of_range(bits):
    with pytest.raises(MmacsError, match='bits must be an integer from 1 to 16'):
        LSQ(bits=bits)


def test_signed_is_decided_from_the_data():
    assert not calibrated(torch.rand(100)).level_is_signed()
    assert calibrated(torch.randn(100)).level_is_signed()
    assert calibrated(torch.rand(100), signed=True).level_is_signed()


def test_one_bit_of_both_signs_is_the_sign_times_the_mean_magnitude():
    x = torch.randn(1000)
    quantizer = calibrated(x, bits=1)
    torch.testing.assert_close(quantizer(x), x.sign() * x.abs().mean())


def test_state_dict_keys_do_not_depend_on_progress():
    quantizer = LSQ()
    before = {key: value.shape for key, value in quantizer.state_dict().items()}
    quantizer(torch.rand(10))
    assert {key: value.shape for key, value in quantizer.state_dict().items()} == before


def test_uncalibrated_in_eval_mode_is_an_error_that_names_the_layer():
    quantizer = LSQ().eval()
    quantizer.name = 'backbone.conv1.input_quantizer'
    with pytest.raises(MmacsError, match='backbone.conv1.input_quantizer was never calibrated'):
        quantizer(torch.rand(3))


def test_first_training_batch_initialises_and_a_loaded_state_never_does_again():
    quantizer = LSQ(bits=4)
    quantizer(torch.rand(100))
    restored = LSQ(bits=4)
    restored.load_state_dict(quantizer.state_dict())
    restored(torch.rand(100) * 50)
    assert torch.equal(restored.step, quantizer.step)
    assert not restored.level_is_signed()


def test_a_full_precision_state_dict_loads_without_complaint_and_half_a_state_does_not():
    quantizer = LSQ()
    assert quantizer.load_state_dict({}, strict=True)
    with pytest.raises(
        MmacsError, match='with the state initialized, signed, step, step_bits, zero_point, but the checkpoint has'
    ):
        quantizer.load_state_dict({'step': torch.ones(1)}, strict=False)


def test_steps_of_another_bit_width_are_refused():
    state = calibrated(torch.rand(100), bits=4).state_dict()
    with pytest.raises(MmacsError, match='has 2 bits, but the checkpoint has step sizes for 4'):
        LSQ(bits=2).load_state_dict(state)


def test_step_stays_positive_whatever_the_optimizer_does():
    quantizer = calibrated(torch.randn(100))
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=1e4)
    for _ in range(5):
        optimizer.zero_grad()
        x = torch.randn(100)
        quantizer(x).square().sum().backward()
        optimizer.step()
        assert (quantizer.grid().step > 0).all()
        assert torch.isfinite(quantizer(x)).all()


def test_each_level_has_its_step_and_too_many_calls_are_an_error():
    quantizer = LSQ(num_levels=2)
    levels = [torch.rand(100), 10 * torch.rand(100)]
    quantizer.start_observing()
    for x in levels:
        quantizer(x)
    quantizer.finish_observing()
    assert quantizer.step[1] > 5 * quantizer.step[0]
    quantizer.calls = 0
    assert quantizer(levels[0]).max() < 2
    assert quantizer(levels[1]).max() > 5
    with pytest.raises(MmacsError, match='more than 2 times'):
        quantizer(levels[0])


def test_nan_while_calibrating_names_the_layer():
    quantizer = LSQ()
    quantizer.name = 'neck.conv.input_quantizer'
    quantizer.start_observing()
    with pytest.raises(MmacsError, match='neck.conv.input_quantizer met NaN'):
        quantizer(torch.tensor([1.0, float('nan')]))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_in_half_precision_out(dtype):
    quantizer = calibrated(torch.rand(100))
    assert quantizer(torch.rand(10, dtype=dtype)).dtype == dtype


def test_deepcopy_and_pickle():
    quantizer = calibrated(torch.randn(100))
    x = torch.randn(10)
    for twin in (copy.deepcopy(quantizer), pickle.loads(pickle.dumps(quantizer))):
        assert torch.equal(twin(x), quantizer(x))


def test_flags_written_behind_the_cache_are_seen_after_a_mode_switch():
    # as an EMA of a model does it: through tensor.data
    quantizer, source = LSQ(), calibrated(torch.randn(100))
    assert not quantizer.is_initialized()
    for own, other in zip(quantizer.state_dict().values(), source.state_dict().values()):
        own.data.copy_(other.data)
    quantizer.eval()
    x = torch.randn(10)
    assert torch.equal(quantizer(x), source(x))


@pytest.mark.parametrize('copied', [False, True])
def test_flags_written_in_place_are_seen_at_once_on_a_cpu(copied):
    # as scripts do that average weights
    quantizer, source = calibrated(torch.rand(100)), calibrated(torch.randn(100))
    quantizer = copy.deepcopy(quantizer) if copied else quantizer
    for own, other in zip(quantizer.state_dict().values(), source.state_dict().values()):
        own.copy_(other)
    x = torch.randn(10)
    assert torch.equal(quantizer(x), source(x))
    quantizer.initialized.zero_()
    assert not quantizer.is_initialized()


def test_a_quantizer_of_inference_mode_runs():
    x = torch.randn(10)
    with torch.inference_mode():
        quantizer = calibrated(torch.randn(100))
        assert torch.equal(quantizer(x), copy.deepcopy(quantizer)(x))


def test_empty_input_passes():
    assert LSQ().eval()(torch.empty(0, 3)).shape == (0, 3)


def test_after_a_change_of_bits_the_step_is_as_if_calibrated_at_them():
    x = torch.rand(1000)
    quantizer = calibrated(x, bits=8, init='mean')
    quantizer.change_bits(3)
    torch.testing.assert_close(quantizer.step, calibrated(x, bits=3, init='mean').step)


@pytest.mark.parametrize(
    ('kind', 'channels', 'x'),
    [
        ('activation', 1, torch.rand(500)),
        ('activation', 1, torch.randn(500)),
        ('activation', 1, torch.rand(500) - 0.1),
        ('activation', 5, torch.randn(5, 100) * torch.logspace(-2, 2, 5)[:, None]),
        ('weight', 5, torch.randn(5, 100) * torch.logspace(-2, 2, 5)[:, None]),
    ],
)
def test_a_start_at_the_extremes_clips_nothing(kind, channels, x):
    signed = True if kind == 'weight' else None
    quantizer = LSQ(bits=4, init='minmax', kind=kind, num_channels=channels, signed=signed)
    quantizer.start_observing()
    for part in x.split(100, x.dim() - 1):  # each end may lie in another batch
        quantizer(part)
    quantizer.finish_observing()
    with torch.no_grad():
        step = quantizer.eval().grid().step.reshape(-1, *[1] * (x.dim() - 1))
        assert ((quantizer(x) - x).abs() <= 0.501 * step + (0.5 * step if quantizer.zero(0) == 2 else 0)).all()
        assert len(quantizer(x).unique()) > 7 * channels


@pytest.mark.parametrize('settings', [dict(init='minmax'), dict(num_channels=2)])
def test_of_one_bit_the_step_follows_the_mean_of_all_batches(settings):
    quantizer = LSQ(bits=1, kind='activation', signed=True, **settings)
    channels = quantizer.num_channels
    quantizer.start_observing()
    for magnitude in (1.0, 3.0):
        quantizer(torch.full((4, channels, 5), magnitude).transpose(0, channels - 1))
    quantizer.finish_observing()
    assert quantizer.step.tolist() == [4.0] * channels


def test_each_level_has_the_sign_of_its_own_data_from_calibration_on():
    quantizer = LSQ(num_levels=4)
    levels = [torch.rand(100), torch.randn(100), torch.rand(100), torch.randn(100)]
    quantizer.start_observing()
    for x in levels:
        quantizer(x)
    quantizer.finish_observing()
    for level, x in enumerate(levels):
        alone = calibrated(x)
        assert quantizer.level_is_signed(level) == alone.level_is_signed() == (level % 2 == 1)
        torch.testing.assert_close(quantizer.step[level], alone.step[0])
