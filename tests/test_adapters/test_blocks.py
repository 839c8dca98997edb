import copy
import pickle

import pytest
import torch
from mmdet.models import FPN, PAFPN, YOLOXPAFPN
from mmdet.models.backbones import res2net, resnet, resnext
from mmdet.models.backbones.csp_darknet import Focus, SPPBottleneck
from mmdet.models.layers.csp_layer import CSPLayer, CSPNeXtBlock, DarknetBottleneck
from mmdet.models.layers.inverted_residual import InvertedResidual
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmpretrain.models.backbones.cspnet import CSPStage
from mmpretrain.models.backbones.cspnet import DarknetBottleneck as ClassifyingBottleneck
from mmpretrain.models.backbones.densenet import DenseBlock
from mmpretrain.models.backbones.seresnet import SEBottleneck
from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual as TorchvisionInverted
from torchvision.models.resnet import BasicBlock as TorchvisionBlock

from mmacs.models.cifar_resnet import BasicBlock as CIFARBlock
from mmacs.quantization import Recipe, calibrate, disabled, layer_table, quantize_model, quantizers
from mmacs.quantization.blocks import Addition, Concatenation, quantize_operands
from mmacs.quantization.quantizers import LSQ, Quantizer
from mmacs.utils.errors import MmacsError

RECIPE = dict(preset='w8a8', additions=dict(bits=2))

# What makes a module, and its numbers of additions and concatenations
MODULES = {
    'mmdet basic': (lambda: resnet.BasicBlock(8, 8), 1, 0),
    'mmdet bottleneck': (lambda: resnet.Bottleneck(8, 2), 1, 0),
    'ResNeXt': (lambda: resnext.Bottleneck(8, 2, groups=2, base_width=4, base_channels=2), 1, 0),
    'Res2Net': (lambda: res2net.Bottle2neck(8, 2, scales=4, base_width=4, base_channels=2), 3, 1),
    'squeeze and excite': (lambda: SEBottleneck(8, 8, se_ratio=2), 1, 0),
    'torchvision': (lambda: TorchvisionBlock(8, 8), 1, 0),
    'CIFAR': (lambda: CIFARBlock(8, 8), 1, 0),
    'CIFAR downsampling': (lambda: CIFARBlock(8, 16, stride=2), 1, 0),
    'Darknet': (lambda: DarknetBottleneck(8, 8), 1, 0),
    'CSPNeXt': (lambda: CSPNeXtBlock(8, 8), 1, 0),
    'inverted': (lambda: InvertedResidual(8, 8, 16), 1, 0),
    'torchvision inverted': (lambda: TorchvisionInverted(8, 8, 1, 2), 1, 0),
    'FPN': (lambda: FPN([8, 8, 8], 8, 4), 2, 0),
    'PAFPN': (lambda: PAFPN([8, 8, 8], 8, 3), 4, 0),
    'YOLOX FPN': (lambda: YOLOXPAFPN([8, 8], 8, num_csp_blocks=1), 0, 2),
    'CSP layer': (lambda: CSPLayer(8, 8, add_identity=False), 0, 1),
    'CSP stage': (lambda: CSPStage(ClassifyingBottleneck, 8, 8, expand_ratio=1, num_blocks=0), 0, 1),
    'pooled pyramid': (lambda: SPPBottleneck(8, 8), 0, 1),
    'focus': (lambda: Focus(8, 8), 0, 1),
    'dense': (lambda: DenseBlock(1, 8, 2, 4), 0, 1),
}
# Tracing takes seconds, so by default only what is written in a way of its own is compiled; the rest is thorough.
COMPILED_ALWAYS = ('mmdet basic', 'squeeze and excite', 'CIFAR', 'FPN', 'CSP layer', 'pooled pyramid', 'focus', 'dense')


def tensors(output):
    return [output] if isinstance(output, torch.Tensor) else list(output)


@pytest.fixture(params=MODULES)
def module_and_input(request):
    module = MODULES[request.param][0]()
    for parameter in module.parameters():  # some last norms start at zero
        nn.init.normal_(parameter, std=0.5)
    pyramid = [torch.randn(2, 8, size, size) for size in (16, 8, 4)]
    x = pyramid[: len(module.in_channels)] if 'FPN' in request.param else pyramid[1]
    return module.eval(), x, *MODULES[request.param][1:]


def converted(module, x, recipe=RECIPE):
    quantize_model(module, recipe)
    assert calibrate(module, [x]) == []
    return module


def converted_in_both(module, x, additions, concatenations, bits=2):
    """Converted with all operations that the module has; and the quantizers of its own operations."""
    recipe = dict(preset='w8a8')
    recipe.update({'additions': dict(bits=bits)} if additions else {})
    recipe.update({'concatenations': dict(bits=4)} if concatenations else {})
    return own(converted(module, x, recipe))


def own(module):
    return [*getattr(module, 'addition_quantizers', ()), *getattr(module, 'concatenation_quantizers', ())]


def test_each_operand_is_quantized_by_its_own_and_when_disabled_nothing_changes(module_and_input):
    module, x, additions, concatenations = module_and_input
    keys, expected = set(module.state_dict()), tensors(module(x))
    found = converted_in_both(module, x, additions, concatenations, bits=4)  # so that none rounds all to zero
    assert len(found) == 2 * additions + concatenations
    assert keys < set(module.state_dict())
    got = tensors(module(x))
    for quantizer in found:  # changing any of them changes the output
        quantizer.step.data *= 2
        changed = tensors(module(x))
        assert not all(torch.equal(a, b) for a, b in zip(got, changed)), quantizer.name
        got = changed
    with disabled(module):
        assert all(torch.equal(a, b) for a, b in zip(tensors(module(x)), expected))


def test_gradients_reach_the_steps(module_and_input):
    module, x, *operations = module_and_input
    found = converted_in_both(module, x, *operations, bits=4)
    sum(out.square().sum() for out in tensors(module.train()(x))).backward()
    assert all(quantizer.step.grad.abs().sum() > 0 for quantizer in found)


def test_copies_compute_the_same_with_quantizers_of_their_own(module_and_input):
    module, x, *operations = module_and_input
    plain, kind = copy.deepcopy(module).state_dict(), type(module)
    converted_in_both(module, x, *operations)
    expected = tensors(module(x))
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert isinstance(twin, kind) and type(twin) is type(module)
        assert all(torch.equal(a, b) for a, b in zip(tensors(twin(x)), expected))
        own(twin)[0].step.data *= 2
        assert not all(torch.equal(a, b) for a, b in zip(tensors(twin(x)), expected))
        assert all(torch.equal(a, b) for a, b in zip(tensors(module(x)), expected))
    module.load_state_dict(plain, strict=True)


@pytest.mark.parametrize(
    'module_and_input',
    [pytest.param(name, marks=[] if name in COMPILED_ALWAYS else pytest.mark.thorough) for name in MODULES],
    indirect=True,
)
def test_blocks_compile_without_a_break_and_train_the_same(module_and_input):
    module, x, *operations = module_and_input
    torch._dynamo.reset()
    converted_in_both(module, x, *operations, bits=4)
    twin = copy.deepcopy(module.train())
    compiled = torch.compile(twin, backend='eager', fullgraph=True)
    for call in (module, compiled):
        sum(out.square().sum() for out in tensors(call(x))).backward()
    for given, got in zip(module.parameters(), twin.parameters()):
        # a step's gradient is a sum of thousands of numbers of both signs, in another order
        rounding = dict(rtol=1e-5, atol=1e-5) if given.numel() == 1 else {}
        torch.testing.assert_close(got.grad, given.grad, **rounding)


def test_a_checkpoint_of_before_the_modules_loads(module_and_input):
    """Quantizers of additions had these names when their operands were found by stack frames."""
    module, x, additions, _ = module_and_input
    if not additions:
        pytest.skip('concatenations are new')
    names = [f'addition_quantizers.{index}.' for index in range(2 * additions)]
    before = set(module.state_dict())
    before |= {name + key for name in names for key in ('step', 'initialized', 'signed', 'step_bits')}
    layers = copy.deepcopy(module)
    before |= set(quantize_model(layers, 'w8a8').state_dict())
    before = {name for name in before if not name.endswith('.zero_point')}  # which came later than the modules
    state = quantize_model(module, RECIPE).state_dict()
    module.load_state_dict({name: state[name] for name in before}, strict=True)
    assert {name for name in state if not name.endswith('.zero_point')} == before
    assert {name for name, _ in quantizers(module) if name.startswith('addition')} == {name[:-1] for name in names}


def test_a_block_with_quantized_additions_is_the_one_written_out():
    block, x = CIFARBlock(4, 4).eval(), torch.randn(2, 4, 6, 6)
    converted(block, x, dict(preset='w4a4', additions=dict(bits=3)))
    left, right = block.addition_quantizers
    inner = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(x)))))
    assert torch.equal(block(x), torch.relu(left(inner) + right(x)))
    assert left(inner).unique().numel() <= 8


def test_a_concatenation_is_that_of_operands_rounded_by_one_step():
    layer, x = CSPLayer(8, 8, add_identity=False).eval(), torch.randn(2, 8, 6, 6)
    quantize_operands(layer, Concatenation, lambda block: LSQ(bits=3))
    assert calibrate(layer, [x]) == []
    (quantizer,) = layer.concatenation_quantizers
    main, short = layer.blocks(layer.main_conv(x)), layer.short_conv(x)
    joined = torch.cat([quantizer(main), quantizer(short)], 1)
    assert torch.equal(layer(x), layer.final_conv(joined))
    assert joined.unique().numel() <= 8


def test_the_parts_of_a_res2net_block_are_rounded_where_they_meet():
    block, x = res2net.Bottle2neck(8, 2, scales=4, base_width=4, base_channels=2).eval(), torch.randn(2, 8, 6, 6)
    quantize_operands(block, Concatenation, lambda block: LSQ(bits=3))
    assert calibrate(block, [x]) == []
    met = []
    block.conv3.register_forward_pre_hook(lambda module, args: met.append(args[0]))
    block(x)
    with disabled(block):
        block(x)
    assert torch.equal(met[0], block.concatenation_quantizers[0](met[1]))
    assert not torch.equal(met[0], met[1])


def test_an_addition_of_ones_own_is_found_wherever_it_is():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.plus = nn.Conv2d(2, 2, 1), Addition()

        def forward(self, x):
            return self.plus(self.conv(x), x)

    model, x = nn.Sequential(Sum(), nn.ReLU()).eval(), torch.randn(1, 2, 3, 3)
    assert torch.equal(model(x), torch.relu(model[0].conv(x) + x))
    converted(model, x)
    left, right = model[0].plus
    assert (left.name, right.name) == ('0.plus.0', '0.plus.1')
    assert torch.equal(model(x), torch.relu(left(model[0].conv(x)) + right(x)))


def test_a_subclass_that_keeps_the_forward_is_covered_and_one_with_its_own_is_not():
    class Kept(resnet.BasicBlock):
        def doubled(self):
            return 2

    class Changed(resnet.BasicBlock):
        def forward(self, x):
            return super().forward(x)

    model = nn.Sequential(Kept(8, 8), Changed(8, 8))
    assert quantize_operands(model, Addition, lambda block: LSQ()) == ['0']
    assert model[0].doubled() == 2 and isinstance(model[0], Kept) and type(model[1]) is Changed


def test_concatenated_pixels_keep_the_bits_of_the_image():
    stem = quantize_model(Focus(3, 8), dict(preset='w4a4', concatenations=dict(bits=2)))
    assert [quantizer.bits for quantizer in stem.concatenation_quantizers] == [8]


def test_by_default_blocks_stay_as_they_are():
    block = quantize_model(resnet.BasicBlock(8, 8))
    assert type(block) is resnet.BasicBlock


@pytest.mark.parametrize('name', ['mmdet basic', 'FPN'])
def test_bfloat16_autocast_keeps_the_dtypes(name):
    module = MODULES[name][0]().eval()
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


def test_a_refused_recipe_leaves_nothing_quantized():
    block, x = resnet.BasicBlock(8, 8).eval(), torch.randn(1, 8, 4, 4)
    expected = block(x)
    with pytest.raises(MmacsError, match='quantizes concatenations'):
        quantize_model(block, dict(additions=dict(bits=2), concatenations=dict(bits=2)))
    assert list(quantizers(block)) == [] and torch.equal(block(x), expected)
    assert len(quantize_model(block, RECIPE).addition_quantizers) == 2


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


@pytest.mark.parametrize('key', ['additions', 'concatenations'])
def test_operations_have_one_range_each(key):
    with pytest.raises(MmacsError, match=f'^{key} have no per_level'):
        Recipe({key: dict(bits=8, per_level=True)})
    assert getattr(Recipe({key: dict(bits=32)}), key) is None


def test_the_table_of_layers_shows_operations():
    layer = quantize_model(CSPLayer(8, 8), dict(additions=dict(bits=6), concatenations=dict(bits=5)))
    rows = [line.split()[:5] for line in layer_table(layer).splitlines() if '_quantizers' in line]
    assert rows == [
        ['blocks.0.addition_quantizers.0', 'addition', 'LSQ', '6', 'bit'],
        ['blocks.0.addition_quantizers.1', 'addition', 'LSQ', '6', 'bit'],
        ['concatenation_quantizers.0', 'concatenation', 'LSQ', '5', 'bit'],
    ]


def test_averaged_and_swapped_states_follow_the_model():
    model, x = resnet.BasicBlock(8, 8).eval(), torch.randn(2, 8, 6, 6)
    converted(model, x)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    averaged.update_parameters(model)
    with torch.no_grad():
        assert torch.equal(averaged(x), model(x))
        model.addition_quantizers[0].step.mul_(2)
        averaged.module.load_state_dict(model.state_dict())
        assert torch.equal(averaged(x), model(x))
