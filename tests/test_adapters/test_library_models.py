"""Whole models of the libraries, of every block whose additions or concatenations can be quantized."""

import copy
import inspect

import pytest
import torch
from mmdet.models import FPN, PAFPN, YOLOXPAFPN, CSPNeXtPAFPN
from mmdet.models import backbones as mmdet_backbones
from mmdet.models.roi_heads.mask_heads import SCNetMaskHead
from mmpretrain.models import backbones as mmpretrain_backbones
from mmpretrain.models.backbones.efficientnet import EdgeResidual
from torch.overrides import TorchFunctionMode
from torchvision import models as torchvision_models

from mmacs.adapters import mmdet, mmpretrain, torchvision  # noqa: F401  fill BLOCKS
from mmacs.quantization import calibrate, disabled, quantizers
from mmacs.quantization.blocks import BLOCKS, Addition, Concatenation, quantize_operands
from mmacs.quantization.quantizers import LSQ

SIDE = 64
PLUGINS = [dict(cfg=dict(type='ContextBlock', ratio=0.5), stages=(True, True, True, True), position='after_conv3')]
DEFORMABLE = dict(type='DCNv2', deform_groups=1, fallback_on_stride=False)
CSP_ARCH = dict(num_blocks=(1, 1), in_channels=(8, 16), out_channels=(16, 32))


def image():
    return torch.randn(2, 3, SIDE, SIDE)


def pyramid():
    return [torch.randn(2, 8, size, size) for size in (16, 8, 4)]


def csp_darknet():
    backbone = mmpretrain_backbones.CSPDarkNet(53)
    backbone.stages = backbone.stages[:3]
    backbone.out_indices = [2]
    return backbone


def mmdet_darknet():
    backbone = mmdet_backbones.Darknet(53, out_indices=(3,))
    for name in ('conv_res_block4', 'conv_res_block5'):
        delattr(backbone, name)
        backbone.cr_blocks.remove(name)
    return backbone


# What makes a model and its input, and its numbers of additions and concatenations
MODELS = {
    'ResNet-18': (lambda: mmdet_backbones.ResNet(18, base_channels=8), image, 8, 0),
    'ResNet-50 with plugins': (
        lambda: mmdet_backbones.ResNet(50, base_channels=8, plugins=PLUGINS),
        image,
        16,
        0,
    ),
    'ResNet-50 with deformable convolutions': (
        lambda: mmdet_backbones.ResNet(50, base_channels=8, dcn=DEFORMABLE, stage_with_dcn=(False, True, True, True)),
        image,
        16,
        0,
    ),
    'ResNet-50, recomputed': (lambda: mmdet_backbones.ResNet(50, base_channels=8, with_cp=True), image, 16, 0),
    'ResNeXt-50': (lambda: mmdet_backbones.ResNeXt(depth=50, groups=2, base_width=4), image, 16, 0),
    'Res2Net-50': (lambda: mmdet_backbones.Res2Net(depth=50, base_channels=16), image, 16 + 12 * 2, 16),
    'Darknet': (mmdet_darknet, image, 11, 0),
    'CSPDarknet': (lambda: mmdet_backbones.CSPDarknet('P5', 0.33, 0.125), image, 7, 6),
    'CSPNeXt': (lambda: mmdet_backbones.CSPNeXt('P5', 0.33, 0.125), image, 5, 5),
    'MobileNetV2': (lambda: mmdet_backbones.MobileNetV2(widen_factor=0.25), image, 11, 0),
    'SCNet mask head': (
        lambda: SCNetMaskHead(num_convs=2, in_channels=8, conv_out_channels=8, conv_to_res=True),
        lambda: torch.randn(2, 8, 7, 7),
        1,
        0,
    ),
    'FPN': (lambda: FPN([8, 8, 8], 8, 5, start_level=1), pyramid, 1, 0),
    'FPN, on input': (lambda: FPN([8, 8, 8], 8, 5, add_extra_convs='on_input'), pyramid, 2, 0),
    'FPN, on lateral': (
        lambda: FPN([8, 8, 8], 8, 5, add_extra_convs='on_lateral', relu_before_extra_convs=True),
        pyramid,
        2,
        0,
    ),
    'FPN, on output': (
        lambda: FPN([8, 8], 8, 4, add_extra_convs='on_output', upsample_cfg=dict(mode='nearest', scale_factor=2)),
        lambda: pyramid()[:2],
        1,
        0,
    ),
    'FPN with an end': (lambda: FPN([8, 8, 8], 8, 2, end_level=1, add_extra_convs=False), pyramid, 1, 0),
    'PAFPN': (lambda: PAFPN([8, 8, 8], 8, 4), pyramid, 4, 0),
    'PAFPN, on output': (lambda: PAFPN([8, 8, 8], 8, 5, 0, -1, 'on_output', True), pyramid, 4, 0),
    'YOLOXPAFPN': (lambda: YOLOXPAFPN([8, 8, 8], 8, num_csp_blocks=1), pyramid, 0, 8),
    'CSPNeXtPAFPN': (lambda: CSPNeXtPAFPN([8, 8, 8], 8, num_csp_blocks=1), pyramid, 0, 8),
    'classifying ResNet-18': (
        lambda: mmpretrain_backbones.ResNet(18, stem_channels=8, base_channels=8, drop_path_rate=0.5),
        image,
        8,
        0,
    ),
    'classifying ResNet-50': (
        lambda: mmpretrain_backbones.ResNet(50, stem_channels=8, base_channels=8, expansion=2, drop_path_rate=0.5),
        image,
        16,
        0,
    ),
    'classifying ResNet-18, recomputed': (
        lambda: mmpretrain_backbones.ResNet(18, stem_channels=8, base_channels=8, with_cp=True),
        image,
        8,
        0,
    ),
    'classifying Res2Net-50': (lambda: mmpretrain_backbones.Res2Net(depth=50, base_width=4), image, 16 + 12 * 2, 16),
    'SEResNet-50': (lambda: mmpretrain_backbones.SEResNet(50, stem_channels=8, base_channels=8), image, 16, 0),
    'classifying MobileNetV2': (lambda: mmpretrain_backbones.MobileNetV2(0.25), image, 11, 0),
    'MobileNetV2, recomputed': (lambda: mmpretrain_backbones.MobileNetV2(0.25, with_cp=True), image, 11, 0),
    'MobileNetV3': (lambda: mmpretrain_backbones.MobileNetV3('small'), image, 6, 0),
    'MobileNetV3, recomputed': (lambda: mmpretrain_backbones.MobileNetV3('small', with_cp=True), image, 6, 0),
    'classifying CSPDarkNet': (csp_darknet, image, 11, 3),
    'RepVGG': (
        lambda: mmpretrain_backbones.RepVGG(
            dict(num_blocks=[2, 2, 1, 1], width_factor=[0.125] * 4, group_layer_map=None, se_cfg=dict(ratio=4))
        ),
        image,
        9,
        0,
    ),
    'RepVGG with pooling, recomputed': (
        lambda: mmpretrain_backbones.RepVGG(
            dict(num_blocks=[1, 2, 1, 1], width_factor=[0.125] * 4, group_layer_map=None, se_cfg=None),
            add_ppf=True,
            with_cp=True,
        ),
        image,
        7,
        1,
    ),
    'fused inverted residual': (
        lambda: EdgeResidual(8, 8, 16, drop_path_rate=0.5),
        lambda: torch.randn(2, 8, 7, 7),
        1,
        0,
    ),
    'DenseNet': (
        lambda: mmpretrain_backbones.DenseNet(dict(growth_rate=4, depths=[2, 2, 2, 2], init_channels=8)),
        image,
        0,
        12,
    ),
    'DenseNet, recomputed': (
        lambda: mmpretrain_backbones.DenseNet(
            dict(growth_rate=4, depths=[2, 2, 2, 2], init_channels=8), memory_efficient=True
        ),
        image,
        0,
        12,
    ),
    'torchvision ResNet-18': (lambda: torchvision_models.resnet18(num_classes=3), image, 8, 0),
    'torchvision ResNet-50': (lambda: torchvision_models.resnet50(num_classes=3), image, 16, 0),
    'torchvision MobileNetV2': (lambda: torchvision_models.mobilenet_v2(num_classes=3, width_mult=0.25), image, 11, 0),
}


def tensors(output):
    return [output] if isinstance(output, torch.Tensor) else list(output)


def build(name):
    """A model whose branches matter, with its input."""
    torch.manual_seed(0)
    make, make_input, *_ = MODELS[name]
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():  # some last norms start at zero
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.train()  # returns nothing in backbones
    return model, make_input()


def with_quantizers(model, x):
    """Give every addition and concatenation its quantizers, of 4 bits and calibrated; layers stay as they are."""
    for operation, count in count_operations(model).items():
        if count:
            quantize_operands(model, operation, lambda block: LSQ(bits=4))
    calibrate(model, [x])
    model.train()


def count_operations(model):
    found = {Addition: 0, Concatenation: 0}
    for module in model.modules():
        block = BLOCKS.get(inspect.unwrap(type(module).forward))
        if block is not None:
            found[Addition] += block.num_additions(module)
            found[Concatenation] += block.num_concatenations(module)
    return found


def step(model, x):
    """Outputs and gradients of a forward in training."""
    torch.manual_seed(1)
    x = [part.clone().requires_grad_() for part in x] if isinstance(x, list) else x.clone().requires_grad_()
    model.zero_grad()
    outs = tensors(model(x))
    sum((out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum() for out in outs).backward()
    return [out.detach() for out in outs], [parameter.grad for parameter in model.parameters()]


def test_every_block_is_in_a_model():
    blocks = {inspect.unwrap(type(part).forward) for make, *_ in MODELS.values() for part in make().modules()}
    assert set(BLOCKS) - blocks == set()


@pytest.mark.parametrize('name', MODELS)
def test_with_quantizers_disabled_nothing_changes(name):
    model, x = build(name)
    plain, keys = copy.deepcopy(model), list(model.state_dict())
    assert list(count_operations(model).values()) == list(MODELS[name][2:])
    with_quantizers(model, x)
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if key in keys})
    for place, part in plain.named_modules():
        assert isinstance(model.get_submodule(place), type(part))
        assert type(model.get_submodule(place)).__name__ == type(part).__name__
    with disabled(model):
        own, given = step(model, x), step(plain, x)
    for got, expected in zip(own[0], given[0]):
        assert torch.equal(got, expected)
    weights = [parameter for key, parameter in model.named_parameters() if key in keys]
    for parameter, expected in zip(weights, given[1]):
        got = parameter.grad
        if 'recomputed' in name:  # the library's checkpoints sum gradients in another order
            torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
        else:
            assert (got is None) == (expected is None) and (got is None or torch.equal(got, expected))


class Rounded(TorchFunctionMode):
    """Has the library's own forwards round operands, by quantizers in the given order."""

    def __init__(self, order):
        super().__init__()
        self.order = iter(order)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.add, torch.Tensor.add, torch.Tensor.add_) and not kwargs:
            x, y = args
            if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor) and x.shape == y.shape and x.dim() == 4:
                return next(self.order)(x) + next(self.order)(y)
        if func is torch.cat and args[0][0].dim() == 4:
            quantizer = next(self.order)
            return torch.cat([quantizer(x) for x in args[0]], *args[1:], **(kwargs or {}))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('name', [name for name in MODELS if 'recomputed' not in name and 'plugins' not in name])
def test_the_operands_of_the_librarys_own_operations_are_rounded(name):
    model, x = build(name)
    plain, keys = copy.deepcopy(model), list(model.state_dict())
    concatenates = MODELS[name][3] and 'Res2Net' not in name
    if 'Res2Net' in name:  # concatenates in several steps: see the test of that block
        quantize_operands(model, Addition, lambda block: LSQ(bits=4))
        for part in model.modules():
            part._modules.pop('concatenation_quantizers', None)
            if hasattr(part, 'scales') and hasattr(part, 'bns'):
                part.concatenation_quantizers = Concatenation()
        calibrate(model, [x])
    else:
        with_quantizers(model, x)
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if key in keys})
    order = []
    for _, quantizer in quantizers(model):
        quantizer.register_forward_hook(lambda module, args, output: order.append(module))
    with torch.no_grad():
        model.eval()
        plain.eval()
        got = tensors(model(x))
        used = list(order)
        assert len(set(used)) == len(used) == len(list(quantizers(model)))
        rounded = Rounded if concatenates else RoundedAdditions
        with rounded(used):
            expected = tensors(plain(x))
        assert not all(torch.equal(a, b) for a, b in zip(expected, tensors(plain(x))))
    assert all(torch.equal(a, b) for a, b in zip(got, expected))


class RoundedAdditions(Rounded):
    """Leaves concatenations as they are."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.cat:
            return func(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)


@pytest.mark.parametrize('name', [name for name in MODELS if 'recomputed' in name])
def test_recomputed_forwards_have_the_same_gradients(name):
    model, x = build(name)
    with_quantizers(model, x)
    twin = copy.deepcopy(model)
    for part in twin.modules():
        for switch in ('with_cp', 'memory_efficient'):
            if hasattr(part, switch):
                setattr(part, switch, False)
    own, given = step(model, x), step(twin, x)
    assert all(torch.equal(a, b) for a, b in zip(own[0], given[0]))
    assert all(torch.allclose(a, b) for a, b in zip(own[1], given[1]))
    assert all(quantizer.step.grad is not None for _, quantizer in quantizers(model))
