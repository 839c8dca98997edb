"""What else a checkpoint holds for the hooks, from somebody who means no good."""

import pytest
import torch
from torch import nn

from mmacs.cli.comparison.measure import TrainingTime
from mmacs.hooks.adaptive_bits_hook import _learned
from mmacs.hooks.distillation_hook import DistillationHook
from mmacs.hooks.loaded_checkpoint import check_fit
from mmacs.quantization.learned_bits import LearnedBits
from mmacs.utils.errors import MmacsError


def with_buffer():
    """A model with a buffer that holds Inf by itself, as masks of attention do."""
    model = nn.BatchNorm2d(2)
    model.register_buffer('mask', torch.tensor([0.0, float('-inf')]))
    return model


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        (
            'weight',
            torch.tensor([1.0, float('nan')]),
            'NaN or Inf in 1 weights, first weight: its run has diverged',
        ),
        ('running_var', torch.tensor([1.0, float('inf')]), 'holds NaN or Inf in 1 weights, first running_var'),
        ('weight', 'text', 'weight is a str'),
        ('weight', torch.ones(2, dtype=torch.int8), 'weight is of torch.int8'),
        ('weight', torch.ones(2, dtype=torch.complex64), 'weight is of torch.complex64'),
        ('weight', torch.ones(3), r'weight \(3,\) instead of \(2,\)'),
    ],
)
def test_weights_that_nothing_can_be_done_with(name, value, message):
    weights = dict(with_buffer().state_dict())
    check_fit(with_buffer(), weights)
    with pytest.raises(MmacsError, match=message):
        check_fit(with_buffer(), {**weights, name: value})


@pytest.mark.parametrize('state', ['text', {}, {'teacher': 5}, [1]])
def test_a_teacher_that_is_none(state):
    hook = DistillationHook()
    hook.after_load_checkpoint(None, dict(mmacs_distillation=state))
    with pytest.raises(MmacsError, match='does not say which teacher its run had'):
        hook._expected_teacher()


SOUND = dict(value=3.5, frozen=False, crossings={3: 1})


@pytest.mark.parametrize(
    'change',
    [
        *(dict(value=value) for value in ('a', None, float('nan'), -1, 10**6, True)),
        *(dict(frozen='no'), dict(crossings=[1]), dict(crossings={'a': 1}), dict(crossings={1: 0.5}), dict(more=1)),
    ],
)
def test_learned_bits_that_are_none(change):
    assert _learned(SOUND) == LearnedBits(**SOUND)
    for state in ({**SOUND, **change}, [change]):
        with pytest.raises(MmacsError, match='the learned bits in the checkpoint are damaged'):
            _learned(state)


@pytest.mark.parametrize('seconds', ['1', None, float('nan'), -1, [0]])
def test_seconds_that_are_none(seconds):
    with pytest.raises(MmacsError, match='says that training took'):
        TrainingTime().after_load_checkpoint(None, dict(training_seconds=seconds))
