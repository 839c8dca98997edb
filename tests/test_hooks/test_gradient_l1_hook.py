"""The penalty on gradients in runs: accumulation, mixed precision, and what is refused."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from mmengine.optim import OptimWrapper
from torch import nn
from torch.autograd.function import once_differentiable

from mmacs import GradientL1Hook
from mmacs.hooks.optim_wrapper import CpuAmpOptimWrapper
from mmacs.quantization.gradient_penalty import gradient_l1
from mmacs.utils.errors import MmacsError

from .toy import Toy, images, run


def batches():
    pictures, labels = (torch.stack([image[key] for image in images()]) for key in ('inputs', 'labels'))
    return [dict(inputs=pictures[start : start + 8], labels=labels[start : start + 8]) for start in (0, 8)]


def steps(model, wrapper, hook, data, **cfg):
    """Train on batches; returns what is logged of each."""
    runner = SimpleNamespace(model=model, optim_wrapper=wrapper, cfg=cfg)
    hook.before_train(runner)
    logged = []
    for batch in data:
        hook.before_train_iter(runner, 0)
        logged.append(model.train_step(batch, wrapper))
        hook.after_train_iter(runner, 0)
    return logged


def sgd(model, kind=OptimWrapper, **settings):
    return kind(optimizer=torch.optim.SGD(model.parameters(), 0.1), **settings)


def written_out(model, inputs, labels, weight, activation):
    """Loss and penalty of a batch."""
    first = F.relu(model.norm(model.first(inputs)))
    second = F.relu(model.second(first))
    third = F.relu(model.third(second)).flatten(2).mean(2)
    loss = F.cross_entropy(model.head(third), labels)
    weights = [layer.weight for layer in (model.first, model.second, model.third, model.head)]
    norms = gradient_l1(loss, [weights, [first, second, third]])
    return loss + weight * norms[0] + activation * norms[1]


def test_steps_are_those_of_loss_and_penalty_also_accumulated():
    model, expected = Toy(), Toy()
    logged = steps(model, sgd(model, accumulative_counts=2), GradientL1Hook(0.02, 0.03), batches())
    losses = [written_out(expected, **batch, weight=0.02, activation=0.03) for batch in batches()]
    (sum(losses) / 2).backward()
    with torch.no_grad():
        for parameter in expected.parameters():
            parameter -= 0.1 * parameter.grad
    for one, other in zip(model.parameters(), expected.parameters()):
        torch.testing.assert_close(one, other)
    for found, loss in zip(logged, losses):
        torch.testing.assert_close(found['loss'], loss)
        assert found['gradient_l1_weight'] > 0 and found['gradient_l1_activation'] > 0
    again = copy.deepcopy(model)  # nothing of the hook is left in it
    assert not vars(again).keys() & {'parse_losses'}
    assert not any(module._forward_pre_hooks for module in again.modules())


def test_mixed_precision_penalises_about_the_same():
    plain, mixed = Toy(), Toy()
    (one,) = steps(plain, sgd(plain), GradientL1Hook(0.02, 0.03), batches()[:1])
    (other,) = steps(mixed, sgd(mixed, CpuAmpOptimWrapper), GradientL1Hook(0.02, 0.03), batches()[:1])
    for name in ('gradient_l1_weight', 'gradient_l1_activation'):
        torch.testing.assert_close(other[name], one[name], rtol=0.05, atol=0)


def test_a_run_has_smaller_gradients_than_without(tmp_path):
    def gradients(model):
        batch = batches()[0]
        return gradient_l1(model(**batch, mode='loss')['loss'], [list(model.parameters())])[0].item()

    without = run(tmp_path / 'without', [], epochs=2)
    penalised = run(tmp_path / 'with', [GradientL1Hook(0.05, 0.0)], epochs=2)
    assert gradients(penalised.model) < gradients(without.model)


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return grad * 2


class _OnceLayer(nn.Module):
    def forward(self, x):
        return _Once.apply(x)


def test_what_cannot_work_is_refused():
    for settings in (dict(weight=-1), dict(activation='x'), dict(weight=0, activation=0)):
        with pytest.raises(MmacsError, match='GradientL1Hook'):
            GradientL1Hook(**settings)
    model = Toy('w4a4')
    with pytest.raises(MmacsError, match='prepares a model for rounding, and this one is rounded already'):
        steps(model, sgd(model), GradientL1Hook(), [])
    model = Toy()
    with pytest.raises(MmacsError, match='compiled models cannot'):
        steps(model, sgd(model), GradientL1Hook(), [], compile=True)
    model.norm = nn.Sequential(model.norm, _OnceLayer())
    with pytest.raises(MmacsError, match='a part of Toy cannot: trying to differentiate twice'):
        steps(model, sgd(model), GradientL1Hook(), batches())
