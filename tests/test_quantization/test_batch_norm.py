import copy
import pickle

import pytest
import torch
from mmcv.cnn import build_norm_layer
from mmdet.registry import MODELS
from mmengine.model.utils import convert_sync_batchnorm
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmacs.quantization import calibrate, quantize_model, quantizers
from mmacs.quantization.batch_norm import PerLevelBatchNorm2d, reestimate_batch_norm
from mmacs.quantization.sharing import mark_per_level_norms
from mmacs.utils.errors import MmacsError

PER_LEVEL = dict(type='mmacs.PerLevelBN', num_levels=5)


def features(channels=16, offset=0.0):
    return [torch.randn(2, channels, 2**i, 2**i) + offset * i for i in range(5, 0, -1)]


@pytest.fixture
def per_level_retinanet(tiny_retinanet):
    tiny_retinanet.bbox_head.update(norm_cfg=PER_LEVEL)
    model = MODELS.build(tiny_retinanet)
    mark_per_level_norms(model)
    return model


# ------------------------------------------------------------------ one BatchNorm per level
def test_retinanet_normalises_each_level_by_its_own_statistics(per_level_retinanet):
    head = per_level_retinanet.train().bbox_head
    conv = head.cls_convs[0]
    levels = features(offset=3.0)
    with torch.no_grad():
        head(levels)
        for norm, level in zip(conv.bn, levels):
            expected = conv.conv(level).mean((0, 2, 3))
            torch.testing.assert_close(norm.running_mean, norm.momentum * expected)
        once = [norm.running_mean.clone() for norm in conv.bn]
        head.eval()(levels)
    assert all(torch.equal(norm.running_mean, before) for norm, before in zip(conv.bn, once))


def test_fcos_head_takes_it_from_a_config():
    head = dict(type='FCOSHead', num_classes=3, in_channels=8, feat_channels=8, stacked_convs=2, norm_cfg=PER_LEVEL)
    model = nn.ModuleDict({'bbox_head': MODELS.build(head)})
    mark_per_level_norms(model)
    for _ in range(2):
        model.bbox_head(features(8))
    assert [norm.num_batches_tracked.item() for norm in model.bbox_head.reg_convs[1].bn] == [2] * 5
    assert isinstance(model.bbox_head.cls_convs[0].norm, PerLevelBatchNorm2d)


def test_mmcv_names_it_bn_and_freezes_it_on_request():
    name, norm = build_norm_layer(dict(**PER_LEVEL, requires_grad=False, momentum=0.3), 4, postfix=1)
    assert name == 'bn1'
    assert not any(parameter.requires_grad for parameter in norm.parameters())
    assert [level.momentum for level in norm] == [0.3] * 5


def test_a_checkpoint_with_one_shared_batch_norm_fills_every_level(tiny_retinanet, per_level_retinanet):
    shared = copy.deepcopy(tiny_retinanet)
    shared.bbox_head.norm_cfg = dict(type='BN')
    shared = MODELS.build(shared)
    nn.init.normal_(shared.bbox_head.cls_convs[0].bn.running_mean)
    checkpoint = shared.state_dict()
    per_level_retinanet.load_state_dict(checkpoint, strict=True)
    assert 'bbox_head.cls_convs.0.bn.running_mean' in checkpoint  # the caller's own dict stays
    levels = features()
    with torch.no_grad():
        expected = shared.eval().bbox_head(levels)[0]
        actual = per_level_retinanet.eval().bbox_head(levels)[0]
    assert all(torch.equal(a, b) for a, b in zip(actual, expected))
    # and its own state loads as it is
    twin = copy.deepcopy(per_level_retinanet)
    twin.load_state_dict(per_level_retinanet.state_dict(), strict=True)


def test_interrupted_and_partial_forwards_do_not_shift_levels(per_level_retinanet):
    head = quantize_model(per_level_retinanet).bbox_head
    levels = features()
    with torch.no_grad():
        head(levels)  # gives quantizers their steps
        expected = head.eval()(levels)[0]
        with pytest.raises(AttributeError):
            head([*levels[:2], None])
        assert torch.equal(head(levels[:3])[0][2], expected[2])
        assert torch.equal(head(levels)[0][4], expected[4])
        # MMDetection enters the head past its hooks in this mode: the model's own forward begins anew too
        for _ in range(2):
            per_level_retinanet(torch.randn(1, 3, 64, 64), mode='tensor')


def test_copies_count_their_own_calls(per_level_retinanet):
    model = quantize_model(per_level_retinanet)
    levels = features()
    with torch.no_grad():
        model.bbox_head(levels)
        expected = model.eval().bbox_head(levels)[0]
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.deepcopy(model.bbox_head)):
            head = getattr(twin, 'bbox_head', twin)
            norm = head.cls_convs[0].bn
            norm.calls = 3  # as an interrupted forward leaves it
            assert all(torch.equal(a, b) for a, b in zip(head(levels)[0], expected))
            assert norm is not model.bbox_head.cls_convs[0].bn


def test_a_layer_converted_after_the_first_forward_counts_too(per_level_retinanet):
    with torch.no_grad():
        per_level_retinanet.bbox_head(features())
        model = quantize_model(per_level_retinanet)
        for _ in range(2):
            model.bbox_head(features())


def test_sync_bn_conversion_reaches_every_level(per_level_retinanet):
    norm = convert_sync_batchnorm(per_level_retinanet).bbox_head.cls_convs[0].bn
    assert isinstance(norm, PerLevelBatchNorm2d)
    assert all(isinstance(level, nn.SyncBatchNorm) for level in norm)


@pytest.mark.parametrize('use_reentrant', [False, True])
def test_a_head_recomputed_as_a_whole_gives_the_same_gradients(per_level_retinanet, use_reentrant):
    head = quantize_model(per_level_retinanet).bbox_head
    levels = [level.requires_grad_() for level in features()]
    head(levels)
    head.eval()

    def gradient(run):
        head.zero_grad()
        sum(out.sum() for out in run()).backward()
        return [parameter.grad.clone() for parameter in head.parameters() if parameter.grad is not None]

    expected = gradient(lambda: head(levels)[0])
    run = lambda *levels: tuple(head(levels)[0])  # noqa: E731
    actual = gradient(lambda: checkpoint(run, *levels, use_reentrant=use_reentrant))
    assert len(actual) == len(expected)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(actual, expected))


@pytest.mark.parametrize('count', [3, 5])
def test_recomputing_single_levels_is_refused_not_wrong(per_level_retinanet, count):
    head = per_level_retinanet.bbox_head
    single, levels = head.forward_single, features()[:count]
    head.forward_single = lambda x: checkpoint(single, x.requires_grad_(), use_reentrant=True)
    outputs = head(levels)[0]
    with pytest.raises(MmacsError, match='do not checkpoint'):
        sum(out.sum() for out in outputs).backward()


def test_wrong_numbers_of_levels_are_clear_errors(tiny_retinanet):
    with pytest.raises(MmacsError, match='num_levels must be'):
        PerLevelBatchNorm2d(4, num_levels=0)
    tiny_retinanet.bbox_head.update(norm_cfg=dict(type='mmacs.PerLevelBN', num_levels=4))
    with pytest.raises(MmacsError, match='num_levels=4, but its head has 5 pyramid levels'):
        mark_per_level_norms(MODELS.build(tiny_retinanet))


# ------------------------------------------------------------------ re-estimation
@pytest.fixture
def network():
    """Convolutions, BatchNorm, dropout, and a BatchNorm that no batch reaches."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5))
    model.unused = nn.BatchNorm2d(2)
    nn.init.normal_(model.unused.running_mean)
    return model


def run_without_unused(model):
    return lambda x: model[4](model[3](model[2](model[1](model[0](x)))))


def test_statistics_are_the_averages_over_the_batches_and_nothing_else_changes(network):
    model = quantize_model(network)
    batches = [torch.randn(4, 3, 6, 6) + i for i in range(3)]
    forward = run_without_unused(model)
    calibrate(model, batches, forward)
    model.train()
    model[1].eval()  # as norm_eval does
    forward(batches[0])
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()

    assert reestimate_batch_norm(model, batches, forward) == 2

    seen = [model[0](batch) for batch in batches]
    torch.testing.assert_close(model[1].running_mean, torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0))
    torch.testing.assert_close(model[1].running_var, torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0))
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, state[key])}
    assert changed == {'1.running_mean', '1.running_var', '4.running_mean', '4.running_var'}
    assert modes == [module.training for module in model.modules()]
    assert [model[i].momentum for i in (1, 4)] == [0.1, 0.1]
    assert torch.equal(random, torch.get_rng_state())


def test_batch_norm_shared_between_levels_averages_over_its_calls():
    norm = nn.BatchNorm2d(1)
    levels = [torch.full((1, 1, 2, 2), value) for value in (1.0, 2.0, 6.0)]
    reestimate_batch_norm(norm, [levels], lambda levels: [norm(level) for level in levels])
    assert norm.running_mean.item() == pytest.approx(3.0)


def test_processes_count_by_their_calls(monkeypatch):
    norm, unused = nn.BatchNorm2d(1), nn.BatchNorm2d(1)
    other = iter([torch.tensor(3.0), torch.tensor(6 * 3 / 4), torch.tensor(2 * 3 / 4), torch.tensor(0.0)])
    monkeypatch.setattr('torch.distributed.is_initialized', lambda: True)
    monkeypatch.setattr('torch.distributed.all_reduce', lambda data: data.add_(next(other)))
    # this process calls it once with mean 2 and variance 0, the other one three times with 6 and 2
    reestimate_batch_norm(nn.ModuleList([norm, unused]), [torch.full((1, 1, 2, 2), 2.0)], norm)
    assert (norm.running_mean.item(), norm.running_var.item()) == (5.0, 1.5)
    assert (unused.running_mean.item(), unused.running_var.item()) == (0.0, 1.0)


def test_a_batch_that_fails_leaves_everything(network):
    network.train()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(TypeError):
        reestimate_batch_norm(network, [torch.randn(2, 3, 4, 4), None], run_without_unused(network))
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert all(module.training for module in network.modules())
    assert network[1].momentum == 0.1


def test_nothing_to_run_and_nothing_to_estimate_are_clear_errors(network):
    with pytest.raises(MmacsError, match='at least one batch'):
        reestimate_batch_norm(network, [])
    with pytest.raises(MmacsError, match='no BatchNorm'):
        reestimate_batch_norm(nn.Linear(2, 2), [torch.ones(1, 2)])
    assert next(quantizers(network), None) is None
