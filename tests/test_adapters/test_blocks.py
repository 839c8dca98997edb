import copy
import pickle

import pytest
import torch
from mmdet.models import FPN, PAFPN
from mmdet.models.backbones import res2net, resnet, resnext
from mmdet.models.layers.csp_layer import CSPNeXtBlock, DarknetBottleneck
from mmdet.models.layers.inverted_residual import InvertedResidual
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmpretrain.models.backbones.seresnet import SEBottleneck
from torch import nn
from torchvision.models.resnet import BasicBlock as TorchvisionBlock

from mmacs.models.cifar_resnet import BasicBlock as CIFARBlock
from mmacs.quantization import calibrate, disabled, quantize_model, quantizers
from mmacs.quantization.blocks import Addition, Concatenation, quantize_operands
from mmacs.quantization.quantizers import LSQ, Quantizer
from mmacs.utils.errors import MmacsError

RECIPE = dict(preset='w8a8', additions=dict(bits=2))

# What makes a module, and its number of additions
MODULES = {
    'mmdet basic': (lambda: resnet.BasicBlock(8, 8), 1),
    'mmdet bottleneck': (lambda: resnet.Bottleneck(8, 2), 1),
    'ResNeXt': (lambda: resnext.Bottleneck(8, 2, groups=2, base_width=4, base_channels=2), 1),
    'Res2Net': (lambda: res2net.Bottle2neck(8, 2, scales=4, base_width=4, base_channels=2), 3),
    'squeeze and excite': (lambda: SEBottleneck(8, 8, se_ratio=2), 1),
    'torchvision': (lambda: TorchvisionBlock(8, 8), 1),
    'CIFAR': (lambda: CIFARBlock(8, 8), 1),
    'CIFAR downsampling': (lambda: CIFARBlock(8, 16, stride=2), 1),
    'Darknet': (lambda: DarknetBottleneck(8, 8), 1),
    'CSPNeXt': (lambda: CSPNeXtBlock(8, 8), 1),
    'inverted': (lambda: InvertedResidual(8, 8, 16), 1),
    'FPN': (lambda: FPN([8, 8, 8], 8, 4), 2),
    'PAFPN': (lambda: PAFPN([8, 8, 8], 8, 3), 4),
}


def tensors(output):
    return [output] if isinstance(output, torch.Tensor) else list(output)


@pytest.fixture(params=MODULES)
def module_inputs_count(request):
    build, count = MODULES[request.param]
    module = build()
    for parameter in module.parameters():  # some last norms start at zero
        nn.init.normal_(parameter, std=0.5)
    pyramid = [torch.randn(2, 8, size, size) for size in (16, 8, 4)]
    return module.eval(), pyramid if 'FPN' in request.param else pyramid[1], count


def converted(module, x, recipe=RECIPE):
    quantize_model(module, recipe)
    assert calibrate(module, [x]) == []
    return module


def test_each_operand_is_quantized_by_its_own_and_when_disabled_nothing_changes(module_inputs_count):
    module, x, count = module_inputs_count
    keys, expected = set(module.state_dict()), tensors(module(x))
    converted(module, x)
    assert len(module.addition_quantizers) == 2 * count
    assert keys < set(module.state_dict())
    got = tensors(module(x))
    for quantizer in module.addition_quantizers:  # changing any of them changes the output
        quantizer.step.data *= 2
        changed = tensors(module(x))
        assert not all(torch.equal(a, b) for a, b in zip(got, changed)), quantizer.name
        got = changed
    with disabled(module):
        assert all(torch.equal(a, b) for a, b in zip(tensors(module(x)), expected))


def test_gradients_reach_the_steps(module_inputs_count):
    module, x, _ = module_inputs_count
    converted(module, x, dict(preset='w8a8', additions=dict(bits=4)))
    sum(out.square().sum() for out in tensors(module.train()(x))).backward()
    assert all(quantizer.step.grad.abs().sum() > 0 for quantizer in module.addition_quantizers)


def test_copies_compute_the_same_with_quantizers_of_their_own(module_inputs_count):
    module, x, _ = module_inputs_count
    plain = copy.deepcopy(module).state_dict()
    converted(module, x)
    expected = tensors(module(x))
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert all(torch.equal(a, b) for a, b in zip(tensors(twin(x)), expected))
        twin.addition_quantizers[0].step.data *= 2
        assert not all(torch.equal(a, b) for a, b in zip(tensors(twin(x)), expected))
        assert all(torch.equal(a, b) for a, b in zip(tensors(module(x)), expected))
    module.load_state_dict(plain, strict=True)


def test_a_block_with_quantized_additions_is_the_one_written_out():
    block, x = CIFARBlock(4, 4).eval(), torch.randn(2, 4, 6, 6)
    converted(block, x, dict(preset='w4a4', additions=dict(bits=3)))
    left, right = block.addition_quantizers
    inner = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(x)))))
    assert torch.equal(block(x), torch.relu(left(inner) + right(x)))
    assert left(inner).unique().numel() <= 8


def test_additions_inside_layers_plugins_and_quantizers_are_not_those_of_the_block():
    class Restless(LSQ):
        """Adds feature maps while it quantizes."""

        def fake_quantize(self, x, step, q_min, q_max):
            return super().fake_quantize(x, step, q_min, q_max) + torch.zeros_like(x)

    class Plugin(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) + x

    block, x = CIFARBlock(4, 4).eval(), torch.randn(2, 4, 6, 6)
    block.bn1 = Plugin(4)
    converted(block, x)
    block.conv1.input_quantizer.__class__ = Restless
    block.addition_quantizers[0].__class__ = Restless
    block(x)  # would run out of quantizers


def test_an_interrupted_forward_does_not_shift_the_quantizers():
    pyramid, x = FPN([8, 8, 8], 8, 3).eval(), [torch.randn(1, 8, size, size) for size in (16, 8, 4)]
    converted(pyramid, x)
    expected = pyramid(x)
    with pytest.raises(RuntimeError):
        pyramid([torch.randn(1, 8, 16, 16), torch.randn(1, 8, 8, 8), torch.randn(1, 8, 0, 0)])
    interrupt = pyramid.addition_quantizers[2].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pyramid(x)
    interrupt.remove()
    assert all(torch.equal(a, b) for a, b in zip(pyramid(x), expected))
    assert torch.equal(torch.ones(1, 1, 2, 2) * 0.3 + torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), 1.3))


@pytest.mark.parametrize('name', ['mmdet basic', 'FPN'])
def test_bfloat16_autocast_keeps_the_dtypes(name):
    build, _ = MODULES[name]
    module = build().eval()
    x = [torch.randn(1, 8, size, size) for size in (16, 8, 4)]
    x = x if name == 'FPN' else x[0]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        dtypes = [out.dtype for out in tensors(module(x))]
        converted(module, x, dict(preset='w8a8', additions=dict(bits=8)))
        got = tensors(module(x))
    assert [out.dtype for out in got] == dtypes
    assert all(torch.isfinite(out).all() for out in got)


def test_an_empty_batch_passes():
    block, x = CIFARBlock(4, 4).eval(), torch.randn(2, 4, 6, 6)
    converted(block, x)
    assert block(x[:0]).shape == (0, 4, 6, 6)


def test_a_detector_has_them_named_frozen_and_trained(tiny_retinanet):
    tiny_retinanet.backbone.frozen_stages = 1
    model = MODELS.build(tiny_retinanet)
    data = model.data_preprocessor(demo_mm_inputs(2, [[3, 64, 64]] * 2, num_classes=3), True)
    plain = model.state_dict()
    quantize_model(model, dict(preset='w8a8', additions=dict(bits=8)))
    calibrate(model, [data], lambda batch: model(**batch, mode='predict'))
    own = {name: found for name, found in quantizers(model) if 'addition_quantizers' in name}
    assert all(found.name == name and isinstance(found, Quantizer) for name, found in own.items())
    assert len(own) == 8 * 2 + 2 * 2  # eight blocks of a ResNet-18, three levels
    assert not own['backbone.layer1.0.addition_quantizers.0'].step.requires_grad
    losses = model.train()(**data, mode='loss')
    sum(loss for found in losses.values() for loss in found).backward()
    assert all((found.step.grad is None) == ('layer1' in name) for name, found in own.items())
    model.load_state_dict(plain, strict=True)


def test_a_model_without_known_operations_is_refused():
    for operation, key in ((Addition, 'additions'), (Concatenation, 'concatenations')):
        with pytest.raises(MmacsError, match=f'quantizes {key}, but this Sequential has none in a block of a known'):
            quantize_operands(nn.Sequential(nn.Conv2d(3, 3, 1)), operation, lambda block: LSQ())


def test_a_wrong_number_of_additions_is_told():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.addition = Addition()

        def forward(self, x):
            return self.addition(self.addition(x, x), x, 1)

    block = Twice()
    assert torch.equal(block(torch.ones(1)), torch.full((1,), 3.0))
    assert quantize_operands(block, Addition, lambda block: LSQ()) == ['']
    with pytest.raises(MmacsError, match='^addition has quantizers for 1 additions, but its block makes more'):
        block(torch.ones(1))
