"""One quantizer for each tensor: who reads it, what is computed and learned, and what travels in checkpoints."""

import copy
import pickle

import pytest
import torch
from mmdet.models.backbones.resnet import BasicBlock
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from torch import nn

from mmacs.quantization import calibrate, disabled, freeze, layer_table, quantize_model, quantizers
from mmacs.quantization.analysis.sensitivity import layers_to_choose
from mmacs.quantization.blocks import Concatenation
from mmacs.quantization.one_per_tensor import Read, group_by_tensor
from mmacs.quantization.participants import participants
from mmacs.quantization.quantizers import Quantizer, SharedQuantizer
from mmacs.utils.errors import MmacsError
from tests.conftest import SHIPPED

RECIPE = dict(preset='w4a4', sharing='tensor', additions=dict(bits=8))


class Fork(nn.Module):
    """Two convolutions read the input's features, and a third both sums and joins."""

    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.join, self.last = Concatenation(), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.last(self.join([self.left(x), self.right(x)]))


def images(seed=0):
    return torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def followers(model):
    found = model.named_modules()
    return {name: module.source.name for name, module in found if isinstance(module, SharedQuantizer)}


def forked(**recipe):
    torch.manual_seed(0)
    model = quantize_model(Fork(), dict(preset='w4a4', **recipe))
    calibrate(model, [images()])
    return model.train()


def gradients(model, x):
    model.zero_grad()
    model(x).square().sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.fixture
def retinanet(tiny_retinanet):
    """A RetinaNet with one quantizer per tensor, with ranges, and a batch for it."""
    model = MODELS.build(tiny_retinanet)
    model.data_preprocessor.pad_size_divisor = 32
    quantize_model(model, RECIPE)
    data = model.data_preprocessor(demo_mm_inputs(1, [[3, 128, 128]], num_classes=3), False)
    assert calibrate(model, [data], lambda batch: model(**batch, mode='predict')) == []
    return model, data


def test_a_retinanet_has_one_quantizer_for_each_feature_map(retinanet):
    model, _ = retinanet
    found = followers(model)
    head, stage = 'bbox_head.cls_convs.0.conv.input_quantizer', 'backbone.layer3.0.conv1.input_quantizer'
    assert found['bbox_head.reg_convs.0.conv.input_quantizer'] == head
    assert found['neck.fpn_convs.4.conv.input_quantizer'] == head  # reads P6, which the head reads as its fourth level
    assert model.neck.fpn_convs[4].conv.input_quantizer.levels == (3,)
    for name in ('backbone.layer3.0.downsample.0', 'neck.lateral_convs.0.conv'):
        assert found[f'{name}.input_quantizer'] == stage
    assert found['backbone.layer1.1.addition_quantizers.1'] == 'backbone.layer1.1.conv1.input_quantizer'
    # the coarser level is rounded before it is enlarged, as its 3 x 3 convolution reads it
    pyramid = [found.get(f'neck.{name}') for name in ('addition_quantizers.1', 'fpn_convs.2.conv.input_quantizer')]
    assert sorted(map(str, pyramid)) == ['None', 'neck.addition_quantizers.1']
    assert model.backbone.layer1[1].conv1.input_quantizer.bits == 8  # the addition wants them
    assert model.backbone.layer3[0].conv1.input_quantizer.bits == 4
    assert not set(found) & set(dict(quantizers(model)))
    assert not any(key.startswith(tuple(found)) for key in model.state_dict())
    assert f'as {stage.removesuffix(".input_quantizer")}\n' in layer_table(model)


def test_each_feature_map_is_quantized_once_in_a_forward_and_nothing_is_kept(retinanet, monkeypatch):
    model, data = retinanet
    seen, compute = [], Quantizer._quantized
    monkeypatch.setattr(
        Quantizer, '_quantized', lambda self, *args: seen.append((self, args[1])) or compute(self, *args)
    )
    losses = model.train()(**data, mode='loss')
    seen = [(quantizer, level) for quantizer, level in seen if quantizer.kind == 'activation']
    assert len(seen) == len(set(seen)) + 1  # P6, since what the head keeps is its own
    assert all(quantizer.values_of_this_forward is None for _, quantizer in quantizers(model))
    sum(sum(loss) if isinstance(loss, list) else loss for loss in losses.values()).backward()
    learned = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert [
        name for name, parameter in learned.items() if parameter.grad is None
    ] == []  # which DistributedDataParallel would wait for


def test_with_equal_steps_a_recipe_per_layer_computes_the_same(tiny_retinanet, retinanet):
    model, data = retinanet
    plain = quantize_model(MODELS.build(tiny_retinanet), dict(RECIPE, sharing='layer', activation=dict(bits=8)))
    shared = quantize_model(MODELS.build(tiny_retinanet), dict(RECIPE, activation=dict(bits=8)))
    calibrate(shared, [data], lambda batch: shared(**batch, mode='predict'))
    plain.load_state_dict(shared.state_dict(), strict=False)
    for name, module in shared.named_modules():
        if isinstance(module, SharedQuantizer):
            own = plain.get_submodule(name)
            for level, of_source in enumerate(module.levels):
                for key, value in own.state_dict().items():
                    if key != 'step_bits':
                        value[level] = getattr(module.source, key)[of_source]
    plain.eval(), shared.eval()
    with torch.no_grad():
        for one, other in zip(plain(data['inputs']), shared(data['inputs'])):
            assert all(map(torch.equal, one, other))


def test_gradients_of_all_readers_reach_the_shared_step():
    shared, plain = forked(sharing='tensor'), forked()
    assert followers(shared) == {'right.input_quantizer': 'left.input_quantizer'}
    plain.load_state_dict(shared.state_dict(), strict=False)
    plain.right.input_quantizer.load_state_dict(shared.left.input_quantizer.state_dict())
    found, apart = gradients(shared, images(1)), gradients(plain, images(1))
    both = apart.pop('right.input_quantizer.step') + apart['left.input_quantizer.step']
    torch.testing.assert_close(found.pop('left.input_quantizer.step'), both)
    apart.pop('left.input_quantizer.step')
    assert found.keys() == apart.keys()
    torch.testing.assert_close(found, apart)


def test_a_concatenation_and_what_reads_it_have_one_quantizer_of_the_most_bits():
    model = forked(sharing='tensor', concatenations=dict(bits=6))
    assert followers(model)['last.input_quantizer'] == 'join.0'
    assert model.join[0].bits == 8  # `last` predicts
    seen = []
    model.join[0].register_forward_hook(lambda module, args, y: seen.append(y))
    model.last.register_forward_pre_hook(lambda module, args: seen.append(module.input_quantizer(*args)))
    model(images(1))
    assert torch.equal(*seen)


def test_calibration_weighs_the_outputs_of_all_readers():
    model = quantize_model(Fork(), dict(preset='w4a4', sharing='tensor'))
    quantizer, matrices = model.left.input_quantizer, []
    set_range = quantizer.set_range
    quantizer.set_range = lambda *args: matrices.append(quantizer.per_input) or set_range(*args)
    calibrate(model, [images()])
    assert matrices[0].shape == (8, 4)
    assert quantizer.per_input is None


@pytest.mark.parametrize('way', [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_follow_their_own_quantizers(way):
    model = forked(sharing='tensor')
    copied = way(model)
    assert copied.right.input_quantizer.source is copied.left.input_quantizer
    assert copied.left.input_quantizer is not model.left.input_quantizer
    before = model(images(1))
    with torch.no_grad():
        copied.left.input_quantizer.step.mul_(2)
    assert torch.equal(model(images(1)), before)
    assert not torch.equal(copied(images(1)), before)


def test_a_compiled_model_trains_the_same():
    model = forked(sharing='tensor', concatenations=dict(bits=8))
    expected = gradients(model, images(1))
    torch._dynamo.reset()
    compiled = torch.compile(model, backend='aot_eager', fullgraph=False)
    model.zero_grad()
    compiled(images(1)).square().sum().backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    torch.testing.assert_close(found, expected)
    torch._dynamo.reset()


def test_disabled_frozen_and_reloaded():
    model = forked(sharing='tensor').eval()
    with disabled(model), torch.no_grad():
        torch.manual_seed(0)
        assert torch.equal(model(images(1)), Fork()(images(1)))
    again = quantize_model(Fork(), dict(preset='w4a4', sharing='tensor'))
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = model(images(1))
        assert torch.equal(again.eval()(images(1)), expected)
        assert torch.equal(freeze(model)(images(1)), expected)


def test_an_activation_that_is_recomputed_gives_the_same_gradients():
    def trained(with_cp):
        torch.manual_seed(0)
        block = BasicBlock(4, 4, with_cp=False)
        block.with_cp = with_cp
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), block, nn.Conv2d(4, 2, 1))
        quantize_model(model, RECIPE)
        calibrate(model, [images()])
        return gradients(model.train(), images(1))

    torch.testing.assert_close(trained(True), trained(False))


def test_the_dry_run_leaves_no_trace(tiny_retinanet):
    model, calls = MODELS.build(tiny_retinanet).train(), []
    model.backbone.register_forward_hook(lambda *args: calls.append(args))
    before, state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    quantize_model(model, RECIPE)
    assert calls == [] and torch.equal(torch.random.get_rng_state(), state) and model.bbox_head.training
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    assert len(model.backbone._forward_hooks) == 1


def test_bits_are_learned_where_all_readers_take_part(retinanet):
    model, _ = retinanet
    found = participants(model)['activation']
    assert 'backbone.layer3.0.conv1.input_quantizer' in found
    assert 'backbone.layer1.1.conv1.input_quantizer' not in found  # an addition reads it too
    free = layers_to_choose(model)
    assert free['backbone.layer3.0.conv1'] == [model.backbone.layer3[0].conv1.weight_quantizer]
    assert len(free['backbone.layer3.0.conv2']) == 2


def test_members_that_want_other_quantizers_are_named():
    rules = [dict(name='right', activation=dict(type='MinMax'))]
    with pytest.raises(MmacsError, match=r'left.input_quantizer and right.input_quantizer read the same .*MinMax'):
        quantize_model(Fork(), dict(preset='w4a4', sharing='tensor', rules=rules))


def test_of_other_bits_the_larger_number_is_taken():
    rules = [dict(name='right', activation=dict(bits=6))]
    assert quantize_model(Fork(), dict(sharing='tensor', rules=rules)).left.input_quantizer.bits == 6


def test_a_model_that_needs_more_than_images_is_refused():
    class Pair(Fork):
        def forward(self, x, y):
            return super().forward(x + y)

    with pytest.raises(MmacsError, match="sharing='tensor' runs the model once on made-up images.*Pair can't"):
        quantize_model(Pair(), dict(sharing='tensor'))


def test_groups_are_made_of_common_tensors():
    towers = [Read((tower, level), level + 1) for tower in ('cls', 'reg') for level in range(3)]
    reads = [Read(('conv', 0), 0), Read(('neck', 0), 3), *towers]
    (group,) = group_by_tensor(reads, {'conv': 1, 'neck': 1, 'cls': 3, 'reg': 3})
    assert group.holder == 'cls'
    assert group.levels == {'cls': (0, 1, 2), 'neck': (2,), 'reg': (0, 1, 2)}
    assert group.reads == (2, 2, 3)
    twice = [Read(('one', 0), 0), Read(('one', 1), 0), Read(('other', 0), 0)]
    with pytest.raises(MmacsError, match='one has a range for each of its 2 calls'):
        group_by_tensor(twice, {'one': 2, 'other': 1})


def test_two_stage_detectors_and_detr_are_run():
    for config, (follower, holder) in {
        'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py': ('roi_head.bbox_head.fc_reg', 'roi_head.bbox_head.fc_cls'),
        'detr/detr_r50_8xb2-150e_coco.py': ('bbox_head.reg_ffn.layers.0.0', 'bbox_head.fc_cls'),
    }.items():
        model = Config.fromfile(SHIPPED / config).model
        model.backbone.init_cfg = None
        found = followers(quantize_model(MODELS.build(model), dict(sharing='tensor')))
        assert found[f'{follower}.input_quantizer'] == f'{holder}.input_quantizer', found
