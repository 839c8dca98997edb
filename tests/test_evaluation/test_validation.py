import cv2
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.structures import InstanceData

from mmacs.cli.quantized_run import calibrate_runner, conditions, load_quantized
from mmacs.evaluation.layers import measure_layers
from mmacs.evaluation.validation import Validation
from mmacs.hooks import QuantizationHook
from mmacs.models.quantized_model import full_precision_config
from mmacs.quantization import quantizers
from mmacs.quantization.analysis.report import images_of
from mmacs.utils.errors import MmacsError
from tests.conftest import run_config


@pytest.fixture
def cfg(tiny_coco, tmp_path, tiny_retinanet):
    torch.save(dict(state_dict=MODELS.build(tiny_retinanet).state_dict()), tmp_path / 'fp.pth')
    cfg = run_config('retinanet_r18_w4a4_acs.py', tiny_coco, tmp_path / 'run')
    cfg.load_from, cfg.launcher = str(tmp_path / 'fp.pth'), 'none'
    return cfg


def detect(batch):
    """Detect exactly what is annotated."""
    for sample in batch['data_samples']:
        truth = sample.gt_instances
        sample.pred_instances = InstanceData(
            bboxes=truth.bboxes.tensor, labels=truth.labels, scores=torch.ones(len(truth))
        )
    return batch['data_samples']


def detect_nothing(batch):
    for sample in batch['data_samples']:
        sample.pred_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0), scores=torch.zeros(0))
    return batch['data_samples']


@pytest.mark.parametrize('count', [1, 5, 12, 100])
def test_only_objects_of_the_chosen_images_count(cfg, count):
    validation = Validation(load_quantized(cfg, None), count)
    validation.model.val_step = detect
    assert validation.num_images == min(count, 12)
    for _ in range(2):
        assert validation.score() == 1.0
    assert validation.metric == 'coco/bbox_mAP'


def test_a_config_without_validation_is_measured_on_its_test_data(cfg):
    cfg.update(val_dataloader=None, val_evaluator=None, val_cfg=None)
    runner = load_quantized(cfg, None)
    with pytest.raises(MmacsError, match='has no val_dataloader and val_evaluator'):
        Validation(runner, 3)
    calibrate_runner(runner)
    report = measure_layers(runner, 3)
    assert images_of(report) == '3 test images' and all(layer['weight'] for layer in report['layers'])


def test_images_are_spread_over_the_data_set_and_known_by_their_contents(cfg, tiny_coco):
    validation = Validation(load_quantized(cfg, None), 3)
    assert validation.indices == [0, 5, 11]
    before = validation.digest()
    for number, counts in ((5, False), (12, True)):  # ids begin at 1
        picture = tiny_coco / 'images' / f'{number:03d}.png'
        pixels = cv2.imread(str(picture))
        cv2.imwrite(str(picture), 255 - pixels)
        assert (validation.digest() != before) is counts


def test_all_images_give_what_the_runs_own_validation_gives(cfg):
    runner = load_quantized(cfg, None)
    calibrate_runner(runner)
    validation = Validation(runner, 12)
    score = validation.score()
    assert runner.val()[validation.metric] == score


def test_nothing_detected_is_a_mistake_at_first_and_zero_later(cfg):
    validation = Validation(load_quantized(cfg, None), 4)
    validation.model.val_step = detect_nothing
    with pytest.raises(MmacsError, match='no value on 4 validation images'):
        validation.score()
    validation.model.val_step = detect
    assert validation.score() == 1.0
    validation.model.val_step = detect_nothing
    assert validation.score() == 0.0


def test_one_image_can_be_run_alone(cfg):
    runner = load_quantized(cfg, None)
    calibrate_runner(runner)
    (result,) = Validation(runner, 4).forward_one()
    assert result.img_id == 1


def test_the_input_shape_is_that_of_the_first_image_padded(cfg):
    # landscape, 96 x 64 pixels as it is
    assert Validation(load_quantized(cfg, None), 4).input_shape() == [3, 64, 96]


def test_calibration_is_that_of_the_hook(cfg):
    cfg.default_hooks.quantization.update(num_images=3)
    runner = load_quantized(cfg, None)
    calibrate_runner(runner)
    assert all(quantizer.is_initialized() for _, quantizer in quantizers(runner.model))
    steps = runner.model.backbone.conv1.input_quantizer.grid().step.clone()
    for _, quantizer in quantizers(runner.model):
        quantizer.forget_range()
    calibrate_runner(runner)
    assert torch.equal(runner.model.backbone.conv1.input_quantizer.grid().step, steps)


def test_conditions_change_with_data_recipe_and_weights(cfg):
    runner = load_quantized(cfg, None)
    before = conditions(runner, 8)
    calibrate_runner(runner)
    assert conditions(runner, 8) == before
    assert conditions(runner, 9) != before
    runner.cfg.val_dataloader.dataset.data_root = 'elsewhere'
    assert conditions(runner, 8)['config'] != before['config']
    with torch.no_grad():
        runner.model.backbone.conv1.weight.add_(1)
    assert conditions(runner, 8)['checkpoint'] != before['checkpoint']


@pytest.mark.parametrize('where', ['default_hooks', 'custom_hooks'])
def test_conditions_change_with_the_calibration_wherever_its_hook_is(cfg, where):
    if where == 'custom_hooks':
        cfg.custom_hooks = [cfg.default_hooks.pop('quantization')]
    runner = load_quantized(cfg, None)
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, QuantizationHook))
    before = conditions(runner, 8)
    for name in ('num_images', 'batch_size'):
        value = getattr(hook, name)
        setattr(hook, name, value + 1)
        assert conditions(runner, 8)['config'] != before['config']
        setattr(hook, name, value)
    hook.check_interval += 1
    assert conditions(runner, 8) == before


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(load_from=None), 'name a checkpoint'),
        (dict(model=dict(recipe=None)), 'nothing of this model is quantized: .* with a recipe'),
    ],
)
def test_mistakes(cfg, change, message):
    cfg.merge_from_dict(change)
    with pytest.raises(MmacsError, match=message):
        load_quantized(cfg, None)


def test_a_full_precision_config_is_refused(cfg):
    cfg.model = full_precision_config(cfg.model)
    del cfg.default_hooks.quantization, cfg.default_hooks.coreset
    cfg.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=True)
    with pytest.raises(MmacsError, match='nothing of this model is quantized'):
        load_quantized(cfg, None)


def test_no_images_are_refused(cfg):
    with pytest.raises(MmacsError, match='at least 1, got 0'):
        Validation(load_quantized(cfg, None), 0)
